"""bf16 rounds what goes forward and nothing else, whoever runs the network: weights, losses and steps are float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.strategies import lr_find
from pipeline.strategies.lr_find import suggest
from pipeline.strategies.prepared import place_of
from pipeline.strategies.sanity import first
from pipeline.strategies.training import Training
from tests.strategies import world
from tests.strategies.test_sanity import bench_of
from tests.strategies.test_training import made_of, run

PRECISIONS = ("fp32", "bf16")
DECADES = [10.0**i for i in range(-6, 3)]


def both(name: str, manifest: Manifest, cache: Path, **changes: Any) -> list[Training]:
    """The same strategy made ready in each precision."""
    return [made_of(name, manifest, cache, precision=precision, **changes)[1] for precision in PRECISIONS]


# -- the suggested rate


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["frozen", "finetune", "scratch", "cnn", "fc"])
def test_the_suggested_rate_does_not_hang_on_the_precision(
    name: str, optimiser: str, manifest: Manifest, cache: Path
) -> None:
    changes = {"optimiser": optimiser, "nesterov": optimiser == "sgd", "dropout": 0.0}
    rates = []
    for precision in PRECISIONS:
        params = world.params(precision=precision, **changes)
        sweep = lr_find.find(name, manifest, world.weights(), params, cache=cache, steps=30)
        assert sweep.suggested is not None
        assert sweep.suggested in sweep.rates
        rates.append(sweep.suggested)
    assert max(rates) < 3 * min(rates)
    assert min(rates) > 1e-5, "at the lowest rates nothing is learned"


def test_the_suggested_rate_is_where_the_loss_has_fallen_half_its_way() -> None:
    assert suggest(DECADES, [2, 2, 2, 1.9, 1.2, 0.4, 0.5, 3, 9]) == 1e-2
    assert suggest(DECADES[:3], [2, 1.4, 1]) == 1e-5
    assert suggest(DECADES[:2], [2, 1]) is None
    assert suggest(DECADES, [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 2, 3]) is None


def test_single_steps_move_the_suggested_rate_by_a_step() -> None:
    falls = [2, 2, 2, 2, 1.9, 1.2, 0.4, 0.6, 3]
    assert suggest(DECADES, falls) == 1e-1
    # A lucky batch at the lowest rates, whose fall is the steepest.
    assert suggest(DECADES, [2, 0.9, *falls[2:]]) == 1e-2
    # The loss jumps and comes back, lower than before: what counts is the fall before the jump.
    assert suggest(DECADES, [2, 2, 2, 1.2, 0.8, 8, 0.1, 2, 3]) == 1e-3
    # It does no more than come back.
    assert suggest(DECADES, [2, 2, 2, 2, 3, 8, 0.1, 2, 3]) is None
    # The first batch alone is unlucky.
    assert suggest(DECADES, [9, *falls[1:]]) == 1e-1


def test_a_sweep_steps_over_as_many_batches_as_the_run(manifest: Manifest, cache: Path) -> None:
    """24 images: batches of 10, 10 and 4, by twos."""
    losses = []
    for changes in ({"batch_size": 20}, {"batch_size": 10, "accumulate": 2}):
        changes |= {"dropout": 0.0, "optimiser": "sgd", "strategies": {"it": {"kind": "scratch"}}, "run": ["it"]}
        made, training = made_of("it", manifest, cache, precision="fp32", **changes)
        assert made.train is not None
        losses.append(lr_find.sweep(training, made.train, low=1e-5, high=1e-2, steps=5, clip=1.0).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.network
def test_lbfgs_searches_with_its_penalty(manifest: Manifest, cache: Path) -> None:
    """The line search is told the loss whose gradient it has, and the sweep what the images have of it."""
    found = []
    for decay in (0.0, 10.0):
        changes = {"optimiser": "lbfgs", "clip": 0.0, "dropout": 0.0, "weight_decay": decay}
        made, training = made_of("frozen", manifest, cache, **changes)
        assert made.train is not None
        found.append(lr_find.sweep(training, made.train, low=1e-3, high=1.0, steps=4).losses)
    assert found[0][0] == pytest.approx(found[1][0]), "before the first step the images' loss is the same"
    assert found[0][-1] < found[0][0] and found[1][-1] <= found[1][0]


# -- what is rounded


@pytest.mark.parametrize("name", ["frozen", "finetune", "cnn", "fc"])
@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
def test_products_are_rounded_and_losses_gradients_and_weights_are_not(
    name: str, loss: str, manifest: Manifest, cache: Path
) -> None:
    losses = {}
    for precision in PRECISIONS:
        made, training = made_of(name, manifest, cache, precision=precision, loss=loss, dropout=0.0)
        assert made.train is not None
        value, logits = training.loss_of(next(iter(made.train)), 0)
        value.backward()  # type: ignore[no-untyped-call]
        losses[precision] = float(value.detach())
        assert value.dtype == logits.dtype == torch.float32
        assert {p.dtype for p in training.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in training.parameters() if p.grad is not None} == {torch.float32}
        rounded = torch.equal(logits, logits.bfloat16().float())
        assert rounded == (precision == "bf16")
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=0.02)


@pytest.mark.parametrize("optimiser", ["sgd", "lbfgs"])
def test_a_step_is_seen_by_the_next_loss(optimiser: str, manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    """Within a step too, in which L-BFGS asks for the loss at many weights."""
    curves = []
    for precision in PRECISIONS:
        clip = 0.0 if optimiser == "lbfgs" else 5.0
        changes = {"optimiser": optimiser, "dropout": 0.0, "learning_rate": 0.5, "clip": clip, "epochs": 3}
        made, training = made_of("frozen", manifest, cache, precision=precision, **changes)
        run(made, tmp_path / precision, epochs=3, clip=clip)
        curves.append([row["train_loss"] for row in training.curve])
    assert curves[0] == pytest.approx(curves[1], rel=0.05)
    assert curves[1][-1] < curves[1][0]


def test_the_first_checks_see_what_a_run_sees(manifest: Manifest, cache: Path) -> None:
    steps = []
    for precision in PRECISIONS:
        at = bench_of("finetune", manifest, cache, precision=precision)
        made = at.ready()
        steps.append([first.first_loss(at, made), first.overfit(at, made), first.find_rate(at, made)[0]])
    for wide, narrow in zip(*steps, strict=True):
        assert (wide.name, wide.verdict) == (narrow.name, narrow.verdict)
    assert steps[0][0].curve["loss"] == pytest.approx(steps[1][0].curve["loss"], rel=0.02)
    assert steps[0][0].curve["loss"] != steps[1][0].curve["loss"]


def test_what_diverged_in_bf16_is_run_again_in_bf16(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    made, training = made_of("finetune", manifest, cache, precision="bf16")

    def spoil(_m: Any, _i: Any, output: Tensor) -> Tensor | None:
        return output * torch.nan if training.training and output.dtype == torch.bfloat16 else None

    training.model.get_submodule("trunk.conv3_2").register_forward_hook(spoil)
    with pytest.raises(UserError, match="loss nan; the output of conv3_2 broke first on the way forward"):
        run(made, tmp_path)


def test_auto_is_what_the_environment_says(manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in PRECISIONS:
        monkeypatch.setenv("CNNCODES_PRECISION", precision)
        for asked, expected in (("auto", precision), ("fp32", "fp32"), ("bf16", "bf16")):
            params = world.params(precision=asked)
            assert place_of("fc", manifest, world.weights(), params, cache).precision == expected
    monkeypatch.setenv("CNNCODES_PRECISION", "fp16")
    with pytest.raises(UserError, match="CNNCODES_PRECISION is 'fp16'; allowed: fp32 or bf16"):
        place_of("fc", manifest, world.weights(), world.params(precision="auto"), cache)
