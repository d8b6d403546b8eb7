"""What each kind trains, imports and renews; direct use and its map of labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.nets.vgg import facts
from pipeline.nets.vgg.network import Network
from pipeline.nets.weights import Weights
from pipeline.strategies import direct
from pipeline.strategies.direct import Direct, label_map, propose
from pipeline.strategies.model import TrunkClassifier, initialise
from pipeline.strategies.run import run_strategy
from pipeline.strategies.strategies import Ready, Task, prepare
from tests.strategies import world

CONVS = [op.name for op in facts.find("tinyvgg").ops if op.kind == "conv"]


def ready(name: str, *, weights: Weights | None = None, **changes: Any) -> Ready:
    params = world.params(**changes)
    return prepare(Task(params.strategies[name], params, weights or world.weights(), world.CLASSES, seed=0))


def multiples(made: Ready) -> dict[str, tuple[float, int]]:
    """Layer -> (multiple, from_epoch), of tables that name layers one by one."""
    return {layer: (e.multiple, e.from_epoch) for e in made.table for layer in e.layers}


def test_frozen_imports_the_convolutions_and_trains_the_head() -> None:
    made = ready("frozen", head="vgg")
    assert multiples(made) == dict.fromkeys(CONVS, (0.0, 0)) | dict.fromkeys(("fc6", "fc7", "fc8"), (1.0, 0))
    source = world.weights().tensors
    state = made.model.canonical_state()
    assert all(torch.equal(state[f"{c}.weight"], source[f"{c}.weight"]) for c in CONVS)
    assert made.renewed.keys() == {"fc6", "fc7", "fc8"}
    assert made.fixed_body


def test_partial_tuning_freezes_what_is_below() -> None:
    found = multiples(ready("partial"))
    frozen = [c for c in CONVS if found[c][0] == 0]
    assert frozen == CONVS[: CONVS.index("conv4_1")]
    assert {found[c][0] for c in CONVS if c not in frozen} == {0.1}
    assert found["classifier"] == (1.0, 0)


@pytest.mark.parametrize(("below", "fixed"), [("fc6", []), ("fc7", ["fc6"]), ("fc8", ["fc6", "fc7"])])
def test_below_a_layer_of_the_head_freezes_those_before_it(below: str, fixed: list[str]) -> None:
    strategies = {"it": {"kind": "finetune", "multiple": 0.1, "below": below}}
    whole = world.weights()
    widths = [len(whole.tensors[f"{name}.bias"]) for name in ("fc6", "fc7")]
    changes = {"strategies": strategies, "run": ["it"], "size": 64, "scale": 64, "head": "vgg"}
    found = multiples(ready("it", widths=widths, **changes))
    assert [name for name in ("fc6", "fc7", "fc8") if found[name][0] == 0] == fixed
    assert all(found[name][0] == 0 for name in CONVS)
    if fixed:
        # Renewed for their widths, they would stay random.
        with pytest.raises(UserError, match=f"`below` {below} would freeze fc6"):
            ready("it", widths=[12, 10], **changes)


def test_below_pool5_is_all_frozen() -> None:
    strategies = {"it": {"kind": "finetune", "multiple": 0.1, "below": "pool5"}}
    assert ready("it", strategies=strategies, run=["it"]).fixed_body


def test_a_wrong_layer_is_named() -> None:
    strategies = {"it": {"kind": "finetune", "multiple": 0.1, "below": "conv6_1"}}
    with pytest.raises(UserError, match="no layer 'conv6_1'"):
        ready("it", strategies=strategies, run=["it"])


def test_gradual_starts_with_the_head() -> None:
    found = multiples(ready("gradual"))
    assert found["classifier"] == (1.0, 0)
    assert {found[c] for c in CONVS} == {(0.1, 6 - block) for block in range(1, 6)}
    assert all(found[c][1] == 6 - int(c[4]) for c in CONVS)


def test_fc_layers_are_imported_where_they_fit_and_renewed_where_not() -> None:
    fits = ready("finetune", head="vgg", scale=64, size=64, widths=[32, 32])
    assert fits.renewed.keys() == {"fc8"}
    assert multiples(fits)["fc6"] == multiples(fits)["fc7"] == (0.1, 0)
    assert multiples(fits)["fc8"] == (1.0, 0)
    assert torch.equal(fits.model.canonical_state()["fc6.weight"], world.weights().tensors["fc6.weight"])

    smaller = ready("finetune", head="vgg", widths=[32, 32])
    assert smaller.renewed["fc6"] == "fc6.weight of the weights is (32, 64), not (32, 16)"
    assert multiples(smaller)["fc6"] == (1.0, 0)
    assert multiples(smaller)["fc7"] == (0.1, 0)
    source = world.weights().tensors["fc6.bias"]
    assert not torch.equal(torch.ones_like(source), smaller.model.canonical_state()["fc6.bias"])


def test_fc8_is_new_even_with_as_many_classes() -> None:
    made = ready("finetune", head="vgg", scale=64, size=64, widths=[32, 32], weights=world.weights(classes=3))
    assert made.renewed.keys() == {"fc8"}


def test_scratch_imports_nothing() -> None:
    state = ready("scratch").model.canonical_state()
    assert not any(torch.equal(state[f"{c}.weight"], world.weights().tensors[f"{c}.weight"]) for c in CONVS)


@pytest.mark.parametrize(("how", "variance"), [("he", 2 / (9 * 64)), ("xavier", 2 / (9 * 64 + 9 * 128))])
def test_initial_values_have_their_variance_and_seed(how: str, variance: float) -> None:
    def kernel(seed: int) -> torch.Tensor:
        made = torch.nn.Sequential(torch.nn.Conv2d(64, 128, 3), torch.nn.Linear(4, 2))
        initialise(made, how, seed)
        return made[0].weight.detach()  # type: ignore[return-value,union-attr]

    assert float(kernel(0).var()) == pytest.approx(variance, rel=0.03)
    assert torch.equal(kernel(0), kernel(0))
    assert not torch.equal(kernel(0), kernel(1))


def test_a_table_of_ones_own_replaces_the_kinds() -> None:
    table = [{"layers": ["*"], "multiple": 0.5, "weight_decay": 0.0, "l1": 0.0, "optimiser": "", "from_epoch": 0}]
    made = ready("it", strategies={"it": {"kind": "frozen", "table": table}}, run=["it"])
    assert multiples(made) == {"*": (0.5, 0)}
    assert not made.fixed_body, "what is trained has no cached codes"


def test_the_tuned_networks_logits_are_the_networks_own() -> None:
    """The same tensors through nets.Network, as the downstream stage reads them."""
    weights = world.weights(classes=3)
    tuned = TrunkClassifier(
        "tinyvgg", world.PREPROCESSING, size=64, head="vgg", widths=[32, 32], dropout=0.5, k=3
    ).eval()
    for name, tensor in tuned.canonical_state().items():
        tensor.copy_(weights.tensors[name])
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bgr = pixels[:, [2, 1, 0]].float()
    mean = torch.tensor(world.PREPROCESSING.mean).view(1, 3, 1, 1)
    expected = Network.of(weights)((bgr - mean) / 50, ("fc8",))["fc8"][:, :, 0, 0]
    torch.testing.assert_close(tuned(pixels), expected, rtol=1e-4, atol=1e-5)


# -- direct use

SOURCES = ("tabby, tabby cat", "Egyptian cat", "sports car", "goldfish", "red wine", "minivan")


def test_a_map_is_proposed_by_names() -> None:
    assert propose(("Cat", "gold fish", "GoldFish", "ca"), SOURCES) == {
        "Cat": ("tabby, tabby cat", "Egyptian cat"),
        "GoldFish": ("goldfish",),
    }


def test_a_target_may_be_written_in_another_unicode_form() -> None:
    assert label_map({"cafe\u0301 ": ["goldfish"]}, ("caf\u00e9",), SOURCES) == {"caf\u00e9": ("goldfish",)}


def test_label_map_errors_come_together() -> None:
    with pytest.raises(UserError) as e:
        label_map({"dog": ["goldfish"], "cat": ["wolf", "goldfish"]}, ("cat",), SOURCES)
    assert "unknown target classes dog" in str(e.value)
    assert "unknown source classes wolf" in str(e.value)
    assert "source classes of two targets goldfish" in str(e.value)
    with pytest.raises(UserError, match="no target class has the name"):
        label_map({}, ("emoji",), SOURCES)


def test_direct_sums_the_probabilities_of_mapped_classes() -> None:
    weights = world.weights(names=SOURCES)
    labels = {"cat": ["tabby, tabby cat", "Egyptian cat"], "car": ["sports car", "minivan"]}
    model = Direct(weights, labels, ("car", "cat", "dog"), size=64).eval()
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = Network.of(weights)(model.normalise(pixels), ("prob",))["prob"][:, :, 0, 0]
    both = torch.stack([source[:, 2] + source[:, 5], source[:, 0] + source[:, 1]], dim=1)
    shown = model(pixels).softmax(dim=1)
    torch.testing.assert_close(shown[:, :2], both / both.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)
    assert float(shown[:, 2].detach().max()) < 1e-9


@pytest.mark.network
def test_direct_runs_and_trains_nothing(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    names = ("green", "red", "blue", "sky blue", "x", "y")
    changes = {"scale": 64, "size": 64, "inference_txt": True}
    result = run_strategy(
        "direct", manifest, world.weights(names=names), world.params(**changes), tmp_path, cache=cache
    )
    assert result["trained"] == "nothing; blue by blue + sky blue; green by green; red by red"
    assert result["repeats"][0]["epochs"] == 0
    shown = np.loadtxt(tmp_path / "probabilities.txt")
    np.testing.assert_allclose(shown.sum(axis=1), 1, atol=1e-5)
    assert shown.shape == (9, 3)


def test_direct_tells_its_map_in_words() -> None:
    weights = world.weights(names=SOURCES)
    targets = [f"class {i}" for i in range(12)]
    labels = {target: [SOURCES[i % len(SOURCES)]] for i, target in enumerate(targets[: len(SOURCES)])}
    told = Direct(weights, labels, targets, size=64).told()
    assert told.startswith(f"class 0 by {SOURCES[0]}; class 1 by {SOURCES[1]}")
    assert told.endswith("class 11, never named") and f"none for class {len(SOURCES)}, " in told


def test_direct_is_refused_without_what_it_needs() -> None:
    whole = world.weights(names=SOURCES)
    convs = {n: t for n, t in whole.tensors.items() if n.startswith("conv")}
    stops = Weights.make("tinyvgg", convs, world.PREPROCESSING, {"source": "demo"})
    with pytest.raises(UserError, match="stop at pool5, so they have no fc8"):
        Direct(stops, {}, ("cat",), size=64)
    with pytest.raises(UserError, match="at least 64 x 64"):
        Direct(whole, {}, ("cat",), size=48)
    with pytest.raises(UserError, match="names of the source's classes"):
        direct.source_classes(dataclasses.replace(whole, classes=None))


def test_weights_that_lack_convolutions_are_refused() -> None:
    whole = world.weights()
    few = {n: t for n, t in whole.tensors.items() if n.startswith(("conv1", "conv2"))}
    with pytest.raises(UserError, match=r"lack conv3_1.weight"):
        ready("frozen", weights=Weights.make("tinyvgg", few, world.PREPROCESSING, {}))
