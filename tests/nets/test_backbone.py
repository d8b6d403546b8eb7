"""Every family of networks keeps the promises of `nets.backbone`."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.base.errors import UserError
from pipeline.config import WeightsParams
from pipeline.nets import backbone
from pipeline.nets.backbone import BACKBONES, Backbone
from pipeline.nets.weights import Weights
from pipeline.nets.weights.preprocessings import CAFFE, TORCHVISION

# Family -> an architecture of it that is small enough to run here.
SMALL = {"vgg": "tinyvgg", "torchvision": "torchvision:shufflenet_v2_x0_5", "timm": "timm:test_vit"}
# Those whose facts stand in the project; others ask their library once.
WITHOUT_TORCH = ("vgg",)
# Those that refuse images for their size alone.
LIMITED = ("vgg", "timm")
ENTRIES = pytest.mark.parametrize("family", BACKBONES)


def initial(family: str, seed: int = 0) -> Mapping[str, Tensor]:
    params = WeightsParams(arch=SMALL[family], source=f"random:{seed}", file="-")
    return backbone.family(SMALL[family]).resolve(params, Path("unused")).tensors


def made(family: str, *, seed: int = 0) -> Backbone:
    return backbone.of(Weights.make(SMALL[family], initial(family, seed), TORCHVISION, {}))


def images(network: Backbone, count: int = 2) -> Tensor:
    side = network.about.native_size
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def run(network: Backbone, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return dict(network.runner(layers, device="cpu", precision="fp32")(x))


def names(network: Backbone) -> list[str]:
    return [layer.name for layer in network.layers()]


def hooked(module: nn.Module, found: dict[str, Tensor]) -> None:
    """Keeps a copy of what each named part of a module gives."""
    for name, part in module.named_modules():
        if name:
            part.register_forward_hook(functools.partial(_keep, found, name))


def _keep(found: dict[str, Tensor], name: str, _: nn.Module, __: object, value: object) -> None:
    if isinstance(value, Tensor):
        found[name] = value.detach().clone()


def test_a_small_one_of_each_family_is_tried() -> None:
    assert SMALL.keys() == BACKBONES.keys()


@pytest.mark.parametrize("family", WITHOUT_TORCH)
def test_facts_need_no_torch(family: str) -> None:
    code = (
        "import sys; from pipeline.nets import backbone\n"
        f"about = backbone.find({SMALL[family]!r})\n"
        "side = about.native_size\n"
        "[about.shape(layer.name, side, side) for layer in about.layers()]\n"
        "about.tensors(), about.before(about.top), about.values_at_once([about.top], side, side)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@ENTRIES
def test_shapes_are_the_runs(family: str) -> None:
    network = made(family)
    x = images(network)
    for name, value in run(network, names(network), x).items():
        assert tuple(value.shape[1:]) == network.about.shape(name, x.shape[2], x.shape[3]), name


@ENTRIES
def test_signs_and_channels_are_as_stated(family: str) -> None:
    network = made(family)
    values = run(network, names(network), images(network))
    for layer in network.layers():
        assert values[layer.name].shape[-1 if layer.tokens else 1] == layer.channels
        assert layer.signed or bool((values[layer.name] >= 0).all()), layer.name
    assert any(bool((values[layer.name] < 0).any()) for layer in network.layers() if layer.signed)


@ENTRIES
def test_a_tap_is_what_a_hook_sees(family: str) -> None:
    """A value before its ReLU is what the module gave; one after it is that value without what is below 0."""
    network = made(family)
    x, seen = images(network), dict[str, Tensor]()
    values = run(network, names(network), x)
    trunk = network.trunk(names(network)[-1])
    trunk.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    hooked(trunk.module, seen)
    with torch.inference_mode():
        last = trunk(x)
    assert torch.equal(last, values[trunk.until])
    checked = 0
    for name, value in values.items():
        module = name.removesuffix(".pre")
        if module in seen:
            expected = seen[module]
            if expected.ndim == 4 and expected.shape != value.shape:
                expected = expected.permute(0, 3, 1, 2)
            expected = expected.reshape(value.shape)
            assert torch.equal(value, expected if network.about.require(name).signed else expected.relu()), name
            checked += 1
    # All but the deepest, at which the pass ended before a later hook.
    assert checked >= min(len(seen), len(values) - 1)


@ENTRIES
def test_one_pass_to_the_deepest_layer_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = made(family)
    every = names(network)
    middle = every[len(every) // 2]
    calls: dict[str, int] = {}
    real = nn.Module.__call__

    def counted(self: nn.Module, *args: object, **kwargs: object) -> object:
        if not list(self.children()) and self.state_dict():
            calls[str(id(self))] = calls.get(str(id(self)), 0) + 1
        return real(self, *args, **kwargs)

    runner = network.runner([every[0], middle], device="cpu", precision="fp32")
    monkeypatch.setattr(nn.Module, "__call__", counted)
    with torch.inference_mode():
        assert runner(images(network)).keys() == {every[0], middle}
    owners = dict(network.trunk(middle).module.named_modules())
    needed = {name.rpartition(".")[0] for name in network.about.tensors(middle)}
    parts = {name for name in needed if not list(owners[name].children())}
    assert set(calls.values()) == {1} and len(calls) == len(parts)


@ENTRIES
def test_what_is_returned_shares_no_memory(family: str) -> None:
    network = made(family)
    x = images(network)
    values = run(network, names(network), x)
    kept = {name: value.clone() for name, value in values.items()}
    with torch.inference_mode():
        x.zero_()
        for name, value in values.items():
            assert torch.equal(value, kept[name]), name
            value.fill_(7)


@ENTRIES
def test_other_layers_are_refused_with_what_is_allowed(family: str) -> None:
    network = made(family)
    with pytest.raises(UserError, match=network.about.top):
        network.about.require("nothing")
    with pytest.raises(UserError, match=network.about.top):
        network.runner(["nothing"], device="cpu", precision="fp32")
    with pytest.raises(UserError, match=network.about.top):
        network.trunk("nothing")


@ENTRIES
def test_an_image_alone_has_the_row_it_has_in_a_batch(family: str) -> None:
    network = made(family)
    x = images(network, 3)
    asked = names(network)
    together = run(network, asked, x)
    for name, value in run(network, asked, x[1:2]).items():
        assert value.shape[0] == 1
        scale = float(together[name].abs().max())
        assert float((value[0] - together[name][1]).abs().max()) <= 1e-5 * max(scale, 1e-6), name


@pytest.mark.parametrize("family", LIMITED)
def test_an_image_that_is_too_small_is_refused(family: str) -> None:
    network = made(family)
    with pytest.raises(UserError, match="1 x 1"):
        run(network, [network.about.logits], images(network)[:, :, :1, :1])


@ENTRIES
def test_weights_that_stop_early_have_the_layers_that_they_hold(family: str) -> None:
    whole = made(family)
    tensors = initial(family)
    held = {name: tensors[name] for name in whole.about.tensors(whole.about.top)}
    short = backbone.of(Weights.make(SMALL[family], held, TORCHVISION, {}))
    upto = names(whole).index(whole.about.top) + 1
    assert names(short)[:upto] == names(whole)[:upto] and whole.about.logits not in names(short)
    # What is computed of that layer without tensors of its own is held too.
    assert all(set(whole.about.tensors(name)) <= held.keys() for name in names(short))
    with pytest.raises(UserError, match=f"stop at {names(short)[-1]}"):
        short.runner([whole.about.logits], device="cpu", precision="fp32")


@ENTRIES
def test_key_and_digest_are_of_the_values_alone(family: str) -> None:
    tensors = initial(family)

    def of(values: Mapping[str, Tensor], preprocessing: object, origin: str) -> Backbone:
        return backbone.of(Weights.make(SMALL[family], values, preprocessing, {"source": origin}))  # type: ignore[arg-type]

    one, same = of(tensors, TORCHVISION, "here"), of(dict(reversed(list(tensors.items()))), TORCHVISION, "there")
    assert (one.key(), one.sha256) == (same.key(), same.sha256)
    assert one.key()["weights_sha256"] == one.sha256 and one.key()["arch"] == SMALL[family]
    others = [of(tensors, CAFFE, "here"), made(family, seed=1)]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 3


@ENTRIES
def test_layers_stand_in_computing_order(family: str) -> None:
    """A layer needs all tensors of those before it, and fields of view only grow."""
    about = made(family).about
    needed = [about.tensors(layer.name) for layer in about.layers()]
    assert all(after[: len(before)] == before for before, after in itertools.pairwise(needed))
    fields = [layer.receptive_field for layer in about.layers() if layer.receptive_field is not None]
    assert fields == sorted(fields)
    every = backbone.names(about)
    assert len(set(every)) == len(every)
    assert backbone.deepest_of(about, [every[3], every[1]]) == every[3]


@ENTRIES
def test_a_plain_module_gives_a_trunks_value_or_says_that_it_cant(family: str) -> None:
    network, x = made(family), images(made(family))
    trunk = network.trunk(network.about.top)
    try:
        plain = network.trunk(network.about.top).plain()
    except UserError as e:
        assert "can't be traced" in str(e) and family == "timm", "a transformer that asks for the images' size"
        return
    with torch.inference_mode():
        torch.testing.assert_close(plain(x), trunk(x))
    assert not [part for part in plain.modules() if part._forward_hooks]


@ENTRIES
def test_a_trunk_has_every_parameter_in_one_layer(family: str) -> None:
    about = made(family).about
    trunk = about.trunk(about.top)
    parameters = [name for name, _ in trunk.module.named_parameters()]
    assert set(parameters) <= set(about.tensors(about.top))
    placed = [layer for block in trunk.blocks() for layer in block]
    assert len(set(placed)) == len(placed)
    assert sorted(set(map(trunk.layer_of, parameters))) == sorted(placed)
    # What a layer is computed from, itself and what lies in it apart.
    before = about.before(about.top)
    inside = [layer for layer in placed if layer == about.top or layer.startswith(f"{about.top}.")]
    assert set(before) & set(placed) == set(placed) - set(inside)
    first = backbone.names(about)[0]
    assert not any(layer.startswith(first) for layer in about.before(first))


@ENTRIES
def test_heads_of_its_own_fit_its_trunk(family: str) -> None:
    about = made(family).about
    side = about.native_size
    for kind in about.heads:
        head = about.head(kind, size=side, widths=(5, 4), k=3, dropout=0.0)
        maps = torch.zeros(2, *about.shape(about.top, side, side))
        assert head.codes(maps).shape == (2, head.codes_dim)
        assert head.logits(head.codes(maps)).shape == (2, 3) and head.widths == (5, 4)
        both = backbone.find(about.with_head(kind, size=side, widths=(5, 4)))
        assert both.tensors(about.top) == about.tensors(about.top)
    with pytest.raises(UserError, match="nothing"):
        about.head("nothing", size=side, widths=(5, 4), k=3, dropout=0.0)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown architecture 'nothing'") as told:
        backbone.find("nothing")
    assert all(arch in str(told.value) for arch in backbone.archs())
