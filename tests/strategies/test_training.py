"""What moves and by how much, what is frozen, and what happens when numbers break or a run is killed."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.config import FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.nets.vgg import facts
from pipeline.strategies import checkpoints, kept, lr_find, optimisers, train
from pipeline.strategies.kept import Keeping
from pipeline.strategies.prepared import Prepared, place_of, prepared
from pipeline.strategies.run import OUTS, run_strategy
from pipeline.strategies.sets import sets_of
from pipeline.strategies.train import Limits, fit
from pipeline.strategies.training import Training
from tests.strategies import world

pytestmark = pytest.mark.network

LIMITS = Limits(
    epochs=1,
    clip=0.0,
    select="accuracy",
    patience=0,
    keep_every=0,
    device="cpu",
    devices=1,
)
# What a checkpoint that is kept says of a run.
ABOUT: dict[str, Any] = {
    **dict.fromkeys(("strategy", "arch", "weights"), ""),
    **{name: {} for name in ("settings", "params", "provenance", "data", "model")},
    **{name: [] for name in ("classes", "went_on_from")},
    "repeat": 0,
}
SGD = {"momentum": 0.0, "nesterov": False, "schedule": world.PARAMS["schedule"] | {"kind": "constant", "warmup": 0.0}}


def made_of(
    name: str, manifest: Manifest, cache: Path, *, arch: str = "tinyvgg", **changes: Any
) -> tuple[Prepared, Training]:
    params: FinetuneParams = world.params(**changes)
    place = place_of(name, manifest, world.weights(arch), params, cache)
    made = prepared(place, [sets_of(manifest, place.images, 0, max_train=0, seed=0)], 0)
    assert made.training is not None
    return made, made.training


def strategy(**changes: Any) -> dict[str, Any]:
    return {"strategies": {"it": changes}, "run": ["it"]}


def state_of(training: Training) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in training.model.canonical_state().items()}


def first_gradients(made: Prepared) -> dict[str, Tensor]:
    """Of the first batch, by a copy on which nothing is frozen."""
    assert made.training is not None
    assert made.train is not None
    oracle = copy.deepcopy(made.training)
    for parameter in oracle.parameters():
        parameter.requires_grad_(True)
    oracle.loss_of(next(iter(made.train)), oracle.step_seed(0))[0].backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in oracle.named.items() if p.grad is not None}


def run(
    made: Prepared, folder: Path, *, key: str = "k", keeping: Keeping | None = None, **changes: Any
) -> dict[str, Tensor]:
    assert made.training is not None
    assert made.train is not None
    limits = Limits(**(vars(LIMITS) | changes))
    fit(made.training, made.train, made.val, limits, folder=folder, key=key, keeping=keeping)
    return state_of(made.training)


@pytest.fixture
def tinyvgg_with_norms(monkeypatch: pytest.MonkeyPatch) -> str:
    name = "tinyvgg_with_norms"
    monkeypatch.setitem(facts.ARCHS, name, dataclasses.replace(facts.find("tinyvgg"), name=name, batch_norm=True))
    return name


@pytest.mark.parametrize("batch_norm", [False, True])
def test_frozen_layers_do_not_move_by_a_bit(
    batch_norm: bool, tinyvgg_with_norms: str, manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    arch = tinyvgg_with_norms if batch_norm else "tinyvgg"
    made, training = made_of(
        "it",
        manifest,
        cache,
        arch=arch,
        **strategy(kind="finetune", multiple=0.1, below="conv5_1", augment=["flip"]),
        weight_decay=0.1,
        optimiser="adamw",
    )
    before = state_of(training)
    assert not any(p.grad is not None for p in training.named.values())
    after = run(made, tmp_path)
    for name in before:
        frozen = int(name.removeprefix("conv").removeprefix("bn")[0]) < 5 if name[0] in "cb" and name[4] != "s" else 0
        assert torch.equal(before[name], after[name]) == bool(frozen), name
        if name in training.named:
            assert (training.named[name].grad is None) or not frozen


def test_one_step_of_sgd_is_rate_times_multiple_times_gradient(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    table = [
        {"layers": ["conv1_*", "conv2_*"], "multiple": 0.0},
        {"layers": ["conv3_*", "conv4_*"], "multiple": 0.25, "weight_decay": 0.5, "l1": 0.125},
        {"layers": ["conv5_*"], "multiple": 0.5},
        {"layers": ["classifier"], "multiple": 1.0, "weight_decay": 0.25},
    ]
    blank = {"weight_decay": 0.0, "l1": 0.0, "optimiser": "", "from_epoch": 0}
    made, training = made_of(
        "it",
        manifest,
        cache,
        **strategy(kind="scratch", table=[blank | e for e in table]),
        **SGD,
        batch_size=64,
        dropout=0.0,
        learning_rate=0.125,
    )
    before, grads = state_of(training), first_gradients(made)

    after = run(made, tmp_path)
    for name, old in before.items():
        entry = next(e for e in table if any(name.startswith(p.rstrip("*")) for p in e["layers"]))  # type: ignore[attr-defined]
        step = grads[name].clone()
        if name.endswith("weight"):
            step += entry.get("l1", 0.0) * old.sign() + entry.get("weight_decay", 0.0) * old  # type: ignore[operator]
        expected = old - 0.125 * entry["multiple"] * step  # type: ignore[operator]
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=1e-8)
        assert torch.equal(after[name], old) == (entry["multiple"] == 0), name


def test_gradual_unfreezing_goes_from_the_top(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    made, training = made_of(
        "it", manifest, cache, **strategy(kind="gradual", multiple=0.1, every=1), epochs=3, optimiser="adam"
    )
    held = {id(p) for g in training.configure_optimizers().param_groups for p in g["params"]}
    assert held == {id(p) for p in training.named.values()}, "every parameter is in the optimiser from the start"
    before = state_of(training)
    run(made, tmp_path, epochs=3, select="loss")
    rates = [row["rates"] for row in training.curve]
    for epoch, row in enumerate(rates):
        for name, rate in row.items():
            block = int(name[4]) if name.startswith("conv") else 6
            assert (rate > 0) == (block >= 6 - epoch), (epoch, name)
    last = checkpoints.read(tmp_path / checkpoints.LAST)["state_dict"]
    moved = {n for n in before if not torch.equal(before[n], last[f"model.{_own_name(training, n)}"])}
    assert {int(n[4]) for n in moved if n.startswith("conv")} == {4, 5}


def _own_name(training: Training, canonical: str) -> str:
    return next(n for n, _ in training.model.named_parameters() if n.partition(".")[2] == canonical)


def test_two_optimisers_in_one_table(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    base = {"weight_decay": 0.0, "l1": 0.0, "from_epoch": 0, "multiple": 1.0}
    table = [base | {"layers": ["conv*"], "optimiser": "adam"}, base | {"layers": ["classifier"], "optimiser": ""}]
    made, training = made_of(
        "it", manifest, cache, **strategy(kind="scratch", table=table), **SGD, batch_size=64, learning_rate=0.0625
    )
    before, grads = state_of(training), first_gradients(made)
    after = run(made, tmp_path)
    for name in before:
        moved = (after[name] - before[name]).abs()
        if name.startswith("conv"):
            # Adam's first step is the rate itself, whatever the gradient, where there is one.
            assert float(moved.max()) == pytest.approx(0.0625, rel=1e-3)
    moved = before["classifier.bias"] - after["classifier.bias"]
    torch.testing.assert_close(moved, 0.0625 * grads["classifier.bias"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("sizes", [(24, 5, 5), (10, 5, 2), (9, 3, 3), (20, 4, 5)])
def test_accumulated_batches_step_as_one_batch_of_their_images(
    sizes: tuple[int, int, int], manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    """The last batch of an epoch may be smaller, and its last step of fewer batches. 24 images train."""
    how = {**strategy(kind="scratch"), **SGD, "dropout": 0.0, "learning_rate": 0.1, "precision": "fp32", "l1": 1e-3}
    large, small, accumulate = sizes
    ended = []
    for folder, changes in (("one", {"batch_size": large}), ("many", {"batch_size": small, "accumulate": accumulate})):
        made, training = made_of("it", manifest, cache, **how, **changes)
        before = state_of(training)
        ended.append((run(made, tmp_path / folder, epochs=2, clip=0.5), training.curve))
    (one, one_curve), (many, many_curve) = ended
    assert [row["step"] for row in one_curve] == [row["step"] for row in many_curve]
    for name, tensor in one.items():
        moved = float((tensor - before[name]).abs().max())
        assert float((many[name] - tensor).abs().max()) < 1e-3 * moved, name


@pytest.mark.parametrize("name", ["cnn", "resnet18", "scratch", "finetune", "gradual"])
def test_batch_norm_on_single_images_is_refused_before_training(
    name: str, tinyvgg_with_norms: str, manifest: Manifest, cache: Path
) -> None:
    """However large the maps are, and if the norms are unfrozen later, too."""
    told = rf"{name} trains batch norms, and finetune.loop.batch_size 1 with 24 training images .*: 2 or more of both"
    with pytest.raises(UserError, match=told):
        made_of(name, manifest, cache, arch=tinyvgg_with_norms, batch_size=1)


@pytest.mark.parametrize("name", ["frozen", "scratch", "fc", "direct", "rested"])
def test_single_images_train_what_has_no_norms_or_leaves_them_at_rest(
    name: str, tinyvgg_with_norms: str, manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    entry = {"weight_decay": 0.0, "l1": 0.0, "optimiser": "", "from_epoch": 0}
    table = [entry | {"layers": ["bn*"], "multiple": 0.0}, entry | {"layers": ["conv*", "classifier"], "multiple": 0.1}]
    rested = {"rested": {"kind": "finetune", "multiple": 0.1, "table": table}}
    arch = "tinyvgg" if name in ("scratch", "direct") else tinyvgg_with_norms
    params = world.params(batch_size=1, epochs=1, scale=64, size=64, strategies=world.PARAMS["strategies"] | rested)
    weights = world.weights(arch, names=(*world.CLASSES, "x", "y", "z"))
    result = run_strategy(name, manifest, weights, params, tmp_path, cache=cache)
    assert result["repeats"][0]["n_test"] == 9


@pytest.mark.parametrize("name", ["cnn", "resnet18", "scratch", "finetune"])
def test_a_last_batch_of_one_image_trains_no_norm(
    name: str, tinyvgg_with_norms: str, manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    """24 images in batches of 23: the last one is left out of an epoch, another in each."""
    made, training = made_of(name, manifest, cache, arch=tinyvgg_with_norms, batch_size=23)
    run(made, tmp_path)
    assert training.curve[0]["step"] == 1


def test_accumulation_of_one_batch_leaves_lbfgs_as_it_is(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    """Its batch is the whole set, and its penalty is part of the loss."""
    how = {"optimiser": "lbfgs", "dropout": 0.0, "learning_rate": 1.0, "clip": 0.0, "weight_decay": 0.01}
    one, many = (
        run(made_of("frozen", manifest, cache, **how, accumulate=n)[0], tmp_path / str(n), epochs=2) for n in (1, 4)
    )
    assert world.same(one, many)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"])
def test_every_optimiser_lowers_the_loss_of_a_head(
    optimiser: str, manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    rate = 1.0 if optimiser == "lbfgs" else 0.01
    clip = 0.0 if optimiser == "lbfgs" else 5.0
    changes = {"optimiser": optimiser, "dropout": 0.0, "learning_rate": rate, "epochs": 4, "clip": clip}
    made, training = made_of("frozen", manifest, cache, **changes)
    run(made, tmp_path, epochs=4)
    losses = [row["train_loss"] for row in training.curve]
    assert losses[0] < math.log(3) + 0.5
    assert losses[-1] < losses[0]


def test_lbfgs_refuses_what_it_cannot_do(manifest: Manifest, cache: Path) -> None:
    with pytest.raises(
        UserError, match=r"finetune.optimiser.clip 5 with lbfgs, whose line search needs the whole gradient: 0"
    ):
        world.params(optimiser="lbfgs")
    _, training = made_of("finetune", manifest, cache, optimiser="lbfgs", clip=0.0)
    with pytest.raises(UserError, match="lbfgs has one rate"):
        training.configure_optimizers()


SETTINGS = {"optimiser": "adam", "learning_rate": 0.002, "accumulate": 2, "epochs": 4, "clip": 1.0}


@pytest.mark.parametrize("name", ["scratch", "gradual"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    name: str, manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"epochs": 4, "clip": 1.0}
    made, whole = made_of(name, manifest, cache, **SETTINGS)
    expected = run(made, tmp_path / "whole", **limits)

    step = Training.training_step
    for kill_at in ((1, 1), (3, 2)):
        made, training = made_of(name, manifest, cache, **SETTINGS)

        def killed(self: Training, batch: Any, index: int, at: tuple[int, int] = kill_at) -> Tensor:
            if (self.current_epoch, index) == at:
                raise ConnectionAbortedError("killed")
            torch.rand(3)  # another process has drawn other random numbers by now
            return step(self, batch, index)

        monkeypatch.setattr(Training, "training_step", killed)
        with pytest.raises(ConnectionAbortedError):
            run(made, tmp_path / "killed", **limits)
    monkeypatch.setattr(Training, "training_step", step)
    made, training = made_of(name, manifest, cache, **SETTINGS)
    found = run(made, tmp_path / "killed", **limits)

    assert training.curve == whole.curve
    assert [row["epoch"] for row in training.curve] == [1, 2, 3, 4]
    assert world.same(found, expected)
    a, b = (checkpoints.read(tmp_path / f / checkpoints.LAST) for f in ("whole", "killed"))
    assert world.same(a["state_dict"], b["state_dict"])
    assert str(a["optimizer_states"]) == str(b["optimizer_states"])


class Told(Training):
    """Validation accuracies that are told, not measured."""

    told = (0.2, 0.5, 0.5, 0.4, 0.3, 0.9)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.curve[-1]["val_accuracy"] = self.told[self.current_epoch]


def test_early_stop_picks_the_best_epoch(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    made, training = made_of("fc", manifest, cache)
    training.__class__ = Told
    keeping = Keeping(ABOUT, tmp_path / "out")
    found = run(made, tmp_path / "run", epochs=6, patience=3, keep_every=2, keeping=keeping)
    assert [row["epoch"] for row in training.curve] == [1, 2, 3, 4, 5]
    names = {"epoch-0002.safetensors", "epoch-0004.safetensors"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert {p.name for p in (tmp_path / "run").iterdir()} == names | {checkpoints.BEST, checkpoints.LAST}
    second = kept.Kept.open(tmp_path / "out/epoch-0002.safetensors").model()
    assert world.same({n.removeprefix("net."): t for n, t in second.items()}, found)

    # What has stopped stays stopped, and its result is there again.
    made, training = made_of("fc", manifest, cache)
    training.__class__ = Told
    assert world.same(run(made, tmp_path / "run", epochs=6, patience=3, keep_every=2), found)
    assert len(training.curve) == 5


@pytest.mark.parametrize("name", ["fc", "finetune"])
def test_killed_before_it_kept_an_epoch_a_run_keeps_it_when_it_goes_on(
    name: str, manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    def train(folder: str) -> Path:
        made, _ = made_of(name, manifest, cache)
        out = tmp_path / f"out of {folder}"
        run(made, tmp_path / folder, epochs=2, keep_every=2, keeping=Keeping(ABOUT, out))
        return out / "epoch-0002.safetensors"

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "write_kept", kill)
        train("killed")
    shutil.rmtree(tmp_path / "out of killed", ignore_errors=True)
    assert world.same(kept.Kept.open(train("killed")).model(), kept.Kept.open(train("whole")).model())
    shutil.rmtree(tmp_path / "out of killed")
    assert train("killed").is_file(), "once all epochs are done too"


@pytest.mark.parametrize("broken", ["gradient", "forward"])
def test_nan_stops_before_the_step_and_keeps_the_last_good_checkpoint(
    broken: str, manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    made, training = made_of("finetune", manifest, cache)
    conv = training.model.get_submodule("trunk.conv3_2")
    at = (1, 2)

    def is_now() -> bool:
        return training.training and (training.current_epoch, training.global_step) == (at[0], 3 * at[0] + at[1])

    def spoil(_m: Any, _i: Any, output: Tensor) -> Tensor | None:
        if not is_now():
            return None
        if broken == "forward":
            return output * torch.nan
        if output.requires_grad:
            output.register_hook(lambda grad: grad * torch.nan)
        return None

    conv.register_forward_hook(spoil)
    with pytest.raises(UserError, match="training diverged in epoch 2, step 5") as e:
        run(made, tmp_path, epochs=3)
    text = str(e.value)
    if broken == "gradient":
        assert "the first gradient to break, going back from the loss, is that of conv3_2" in text
    else:
        assert "loss nan; the output of conv3_2 broke first on the way forward" in text
    assert all(torch.isfinite(p).all() for p in training.named.values())
    kept = checkpoints.read(tmp_path / checkpoints.LAST)
    assert kept["epoch"] == 0
    assert all(torch.isfinite(t).all() for t in kept["state_dict"].values())


def test_a_checkpoint_of_another_run_is_refused(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    made, _ = made_of("fc", manifest, cache)
    run(made, tmp_path)
    made, training = made_of("cnn", manifest, cache)
    with pytest.raises(UserError, match=r"last.safetensors is a checkpoint of another run or architecture"):
        run(made, tmp_path, key="other")
    with pytest.raises(UserError, match="checkpoint of another architecture"):
        checkpoints.load_best(training, tmp_path)
    (tmp_path / checkpoints.LAST).write_bytes((tmp_path / checkpoints.BEST).read_bytes()[:500])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        run(made, tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(
    manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = made_of("fc", manifest, cache)

    def save(trainer: Any, path: Path) -> None:
        if trainer.current_epoch == 1:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        trainer.save_checkpoint(path)

    monkeypatch.setattr(checkpoints, "_save", save)
    with pytest.raises(UserError, match="no space left"):
        run(made, tmp_path, epochs=3)
    assert checkpoints.read(tmp_path / checkpoints.LAST)["epoch"] == 0
    assert {p.name for p in tmp_path.iterdir()} == {"best.safetensors", "last.safetensors"}


def test_lr_finder_says_how_far_it_is(
    manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, training = made_of("finetune", manifest, cache)
    assert made.train is not None
    monkeypatch.setattr(lr_find, "_LINE_EVERY_S", 0.0)
    with caplog.at_level("INFO"):
        lr_find.sweep(training, made.train, low=1e-5, high=1e-4, steps=3)
    assert [r.message.split(":")[0] for r in caplog.records] == [
        "1 of 3 rates, up to 1e-05", "2 of 3 rates, up to 3.2e-05", "3 of 3 rates, up to 0.0001"
    ]  # fmt: skip


def test_lr_finder_leaves_weights_and_ratios_untouched(manifest: Manifest, cache: Path) -> None:
    made, training = made_of("finetune", manifest, cache)
    assert made.train is not None
    seen = []
    set_rates = optimisers.set_rates

    def watched(optimiser: Any, rate: float, epoch: int = 0) -> None:
        set_rates(optimiser, rate, epoch)
        seen.append([g["lr"] for g in optimiser.param_groups])

    before, drawn = state_of(training), torch.random.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimisers, "set_rates", watched)
        found = lr_find.sweep(training, made.train, low=1e-5, high=10.0, steps=13)
    assert world.same(before, state_of(training))
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert all(p.grad is None for p in training.named.values())
    rates = np.array(seen)
    np.testing.assert_allclose(rates / rates[:, -1:], np.array([[0.1, 0.1, 1.0, 1.0]] * len(rates)))
    assert list(found.rates) == pytest.approx([10 ** (-5 + i / 2) for i in range(len(found.rates))])
    assert len(found.losses) == len(found.rates)
    assert found == lr_find.sweep(training, made.train, low=1e-5, high=10.0, steps=13), "a sweep can be repeated"


def test_lr_finder_clips_as_the_run_does(manifest: Manifest, cache: Path) -> None:
    made, training = made_of("scratch", manifest, cache, **SGD, optimiser="sgd")
    assert made.train is not None
    norms = []
    add_l1 = optimisers.add_l1
    with pytest.MonkeyPatch.context() as patch:

        def watched(groups: Any, named: Any) -> None:
            add_l1(groups, named)
            patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda _, largest: norms.append(largest))

        patch.setattr(optimisers, "add_l1", watched)
        lr_find.sweep(training, made.train, low=1e-5, high=1e-3, steps=3, clip=0.5)
    assert norms == [0.5] * 3
    free, held = (
        lr_find.sweep(training, made.train, low=1e-3, high=1.0, steps=6, clip=clip).losses for clip in (0.0, 1e-6)
    )
    assert free[0] == held[0] and free != held


def test_lbfgs_tells_the_loss_before_its_search(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    made, training = made_of("frozen", manifest, cache, optimiser="lbfgs", dropout=0.0, learning_rate=1.0, clip=0.0)
    assert made.train is not None
    ((inputs, targets),) = list(made.train)
    with torch.no_grad():
        before = torch.nn.functional.cross_entropy(training.model.top(inputs), targets)
    run(made, tmp_path, epochs=1)
    assert training.curve[0]["train_loss"] == pytest.approx(float(before), rel=1e-5)


@pytest.mark.parametrize(
    ("select", "best", "value", "is_better"),
    [
        ("loss", 0.5, 0.4, True),
        ("loss", 0.5, 0.5, False),
        ("accuracy", 0.5, 0.6, True),
        ("loss", math.nan, 9.0, True),
        ("loss", math.nan, math.nan, False),
        ("loss", 0.5, math.nan, False),
    ],
)
def test_what_makes_an_epoch_the_best(tmp_path: Path, select: str, best: float, value: float, is_better: bool) -> None:
    keeper = checkpoints.Keeper(tmp_path, "k", select=select, patience=0, keep_every=0)
    keeper.load_state_dict({"best_epoch": 1, "best_value": best, "stopped": False})
    assert keeper._is_better(value) == is_better


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a process' peak")
def test_a_runs_peak_of_memory_is_not_that_of_the_run_before() -> None:
    big = np.ones(40_000_000)
    high = train.peak_memory_bytes("cpu")
    del big
    train._forget_peak("cpu")
    assert train.peak_memory_bytes("cpu") < high - 200_000_000


def test_lr_finder_by_the_strategys_name(manifest: Manifest, cache: Path) -> None:
    found = lr_find.find("frozen", manifest, world.weights(), world.params(), cache=cache, low=1e-4, high=1.0, steps=5)
    assert found.rates[:2] == pytest.approx((1e-4, 1e-3))
    with pytest.raises(UserError, match="shows nothing; allowed: 0 < low < high"):
        lr_find.find("frozen", manifest, world.weights(), world.params(), cache=cache, low=1.0, high=0.1)


def test_lr_finder_suggests_the_steepest_fall() -> None:
    rates = [10.0**i for i in range(-6, 1)]
    assert lr_find.suggest(rates, [2, 2, 1.9, 1.2, 0.4, 0.5, 3]) == pytest.approx(1e-3)
    assert lr_find.suggest(rates, [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]) is None


def test_peaks_and_places_of_checkpoints_are_not_among_the_outs(manifest: Manifest, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    run_strategy("fc", manifest, world.weights(), world.params(keep_every=1), out, cache=cache)
    assert not world.left(cache)
    assert {p.name for p in out.iterdir()} == {*OUTS, "metrics.json", "live-curves", "kept-checkpoints"}
