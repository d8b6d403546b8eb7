"""Several processes that share every batch: what a run on one device gives, they give, after a kill too."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.config import FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.heads.sets import Sets
from pipeline.strategies import checkpoints, devices, live, train
from pipeline.strategies.batches import EpochSampler, Part, PartBatches, steps_of
from pipeline.strategies.nodes import Nodes
from pipeline.strategies.prepared import Prepared, place_of, prepared
from pipeline.strategies.run import run_strategy
from pipeline.strategies.sets import sets_of
from pipeline.strategies.train import Limits, Loop, fit
from pipeline.strategies.training import Training
from tests.strategies import world
from tests.strategies.test_training import LIMITS, made_of, state_of

# Batches of 9, 9 and 6 of the 24 images: parts of 5 and 4, and of 3 and 3. A batch and its parts are equal in float32.
EVEN = {
    "precision": "fp32",
    "dropout": 0.0,
    "batch_size": 9,
    "epochs": 3,
    "schedule": {"kind": "linear", "warmup": 0.2, "every": 1, "factor": 0.5},
}


# -- how a batch is cut


@pytest.mark.parametrize(("n", "world_size"), [(1, 1), (7, 1), (7, 2), (8, 3), (2, 3), (64, 8)])
def test_parts_are_the_batch_in_order_and_differ_by_one_at_most(n: int, world_size: int) -> None:
    batch = [(0, i) for i in range(n)]
    parts = [Part(rank, world_size).of(batch) for rank in range(world_size)]
    assert [place for part in parts for place in part] == batch
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [Part(rank, world_size).size(n) for rank in range(world_size)] == [len(part) for part in parts]


@pytest.mark.parametrize(("n", "batch_size", "world_size"), [(24, 9, 2), (25, 9, 2), (9, 9, 4), (50, 16, 3), (5, 8, 2)])
def test_processes_have_the_one_runs_batches(n: int, batch_size: int, world_size: int) -> None:
    one = EpochSampler(n, batch_size, 7, world_size)
    cut = [
        PartBatches(EpochSampler(n, batch_size, 7, world_size), batch_size, Part(r, world_size))
        for r in range(world_size)
    ]
    for sampler in (one, *(c.sampler for c in cut)):
        sampler.set_epoch(5)
    whole = list(one)
    together = list(zip(*cut, strict=True))
    assert [place for parts in together for part in parts for place in part] == whole
    assert len(together) == steps_of(n, batch_size, 1, world_size).per_epoch == len(cut[0])
    # Batch norm can be trained on every part.
    assert min(len(part) for parts in together for part in parts) >= 2


def test_few_validation_images_leave_a_process_without_any() -> None:
    cut = [PartBatches(EpochSampler(5, 4, None), 4, Part(rank, 3)) for rank in range(3)]
    assert [[len(batch) for batch in c] for c in cut] == [[2, 1], [1], [1]]
    assert [len(c) for c in cut] == [2, 1, 1]
    assert len(PartBatches(EpochSampler(1, 4, None), 4, Part(2, 3))) == 0


# -- what is refused


@pytest.mark.network
def test_what_several_devices_cannot_do_is_said_before_work_starts(manifest: Manifest, cache: Path) -> None:
    with pytest.raises(
        UserError, match=r"finetune.compute.devices 2 with lbfgs, whose line search is of one device: 1"
    ):
        world.params(devices=2, optimiser="lbfgs")
    with pytest.raises(UserError, match=r"batch_size 5 is below two images for each of finetune.compute.devices 3"):
        world.params(devices=3, batch_size=5)
    with pytest.raises(UserError, match=r"finetune.compute.devices 2 on mps; allowed: 1, or a device of cpu, cuda"):
        devices.require(2, "mps")
    with pytest.raises(UserError, match=r"finetune.compute.devices 99, and there are fewer"):
        devices.require(99, "cuda")
    with pytest.raises(UserError, match=r"finetune.compute.devices 13 with 24 training images; allowed: two a device"):
        made_of("scratch", manifest, cache, devices=13, batch_size=26)


@pytest.mark.network
def test_a_head_on_codes_is_trained_by_one(manifest: Manifest, cache: Path) -> None:
    made, _ = made_of("frozen", manifest, cache, devices=2)
    assert made.world == 1
    made, _ = made_of("scratch", manifest, cache, devices=2)
    assert made.world == 2


# -- processes


def job_of(name: str, manifest: Manifest, cache: Path, folder: Path, *, val: int | None = None, **changes: Any) -> Any:
    """What `train` gives each process, and the same made ready anew for one device. `val`: so many images validate."""
    made = []
    for count in (2, 1):
        params: FinetuneParams = world.params(**(EVEN | changes | {"devices": count}))
        place = place_of(name, manifest, world.weights(), params, cache)
        sets = sets_of(manifest, place.images, 0, max_train=0, seed=0)
        kept = Sets(sets.train, sets.val[:val], sets.test, sets.y_train, sets.y_val[:val], sets.y_test, 0)
        made.append(prepared(place, [kept], 0))
    how = {k: v for k, v in changes.items() if k in ("clip", "patience", "select")}
    limits = Limits(**(vars(LIMITS) | {"epochs": params.epochs, "devices": 2} | how))
    several, one = made
    loop = Loop(limits, folder / "two", "k", folder / "live", None, None, Nodes())
    return (several.training, several.train, several.val, loop), one


def run_all(part: Part, jobs: Sequence[Any]) -> list[int]:
    """All in one group of processes, for a process takes seconds to start."""
    return [train._one_of(part, *job) for job in jobs]


def ended(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    state = checkpoints.read(folder / checkpoints.LAST)
    return state["curve"], {n.removeprefix("model."): t for n, t in state["state_dict"].items()}


def assert_close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a["epoch"], a["step"], a["rates"]) == (b["epoch"], b["step"], b["rates"])
        for column in live.COLUMNS:
            assert a[column] == pytest.approx(b[column], rel=1e-4), (column, a, b)


JOBS: dict[str, dict[str, Any]] = {
    # Augmented, with a few images to validate: the second process has none of them.
    "finetune": {"val": 1},
    "scratch_plain": {"clip": 0.5, "accumulate": 2, "l1": 1e-4, "patience": 1, "select": "loss", "epochs": 4},
    # The layers that are unfrozen later are not among the first step's gradients.
    "gradual": {"select": "loss"},
    "cnn": {},
}
STRATEGIES = world.PARAMS["strategies"] | {"scratch_plain": {"kind": "scratch"}}


@pytest.mark.slow
def test_two_processes_end_where_one_does(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    jobs = {
        name: job_of(name, manifest, cache, tmp_path / name, strategies=STRATEGIES, **how) for name, how in JOBS.items()
    }
    for name in jobs:
        (tmp_path / name / "two").mkdir(parents=True)
    peaks = devices.spread(run_all, ([several for several, _ in jobs.values()],), count=2, device="cpu")
    assert min(peaks) > 1 << 20

    for name, (several, one) in jobs.items():
        limits = Limits(**(vars(several[3].limits) | {"devices": 1}))
        curve, state = ended(tmp_path / name / "two")
        # Written once, by one process.
        assert {p.name for p in (tmp_path / name / "two").iterdir()} == {checkpoints.BEST, checkpoints.LAST}
        lines = (tmp_path / name / "live/plots/metrics/train/loss.tsv").read_text().splitlines()[1:]
        assert [float(line.split("\t")[1]) for line in lines] == [row["train_loss"] for row in curve]
        if name == "cnn":
            _assert_norms_are_of_all_images(curve, state, one)
            continue
        fit(one.training, one.train, one.val, limits, folder=tmp_path / name / "one", key="k")
        expected, weights = ended(tmp_path / name / "one")
        assert_close(curve, expected)
        for tensor, own in weights.items():
            torch.testing.assert_close(state[tensor], own, rtol=2e-3, atol=2e-5, msg=lambda m, t=tensor: f"{t}: {m}")


def _assert_norms_are_of_all_images(curve: list[dict[str, Any]], state: dict[str, Tensor], one: Prepared) -> None:
    """A norm sees its own process' images, so that the run is another; but what is kept is what was validated."""
    training = one.training
    assert training is not None
    assert one.val is not None
    training.load_state_dict({f"model.{n}": t for n, t in state.items()}, strict=False)
    training.eval()
    ((inputs, targets),) = list(one.val)
    with torch.no_grad():
        logits, _ = training.logits(inputs)
    assert float(torch.nn.functional.cross_entropy(logits, targets)) == pytest.approx(curve[-1]["val_loss"], rel=1e-4)
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]


class Killed(Training):
    """The second process is killed at a step, as for want of memory; the first then waits for it."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        if self.parts is not None and self.parts.part.rank == 1 and (self.current_epoch, index) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, index)


class Spoiled(Training):
    """The second process' part of a batch breaks on the way forward."""

    def logits(self, inputs: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits, labels = super().logits(inputs, labels)
        assert self.parts is not None
        is_now = self.training and (self.current_epoch, self.global_step) == (1, 4) and self.parts.part.rank == 1
        return (logits * torch.nan if is_now else logits), labels


def fit_two(kind: type[Training], manifest: Manifest, cache: Path, folder: Path) -> Training:
    made, training = made_of("fc", manifest, cache, **EVEN, devices=2)
    training.__class__ = kind
    limits = Limits(**(vars(LIMITS) | {"epochs": 3, "devices": 2}))
    fit(training, made.train, made.val, limits, folder=folder, key="k", live=folder / "live")
    return training


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_next_run_goes_on(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a training process ended by SIGKILL; checkpoints are kept"):
        fit_two(Killed, manifest, cache, tmp_path)
    assert [row["epoch"] for row in ended(tmp_path)[0]] == [1]
    found = fit_two(Training, manifest, cache, tmp_path)

    made, whole = made_of("fc", manifest, cache, **EVEN)
    fit(whole, made.train, made.val, Limits(**(vars(LIMITS) | {"epochs": 3})), folder=tmp_path / "one", key="k")
    assert_close(found.curve, whole.curve)
    for name, tensor in state_of(whole).items():
        torch.testing.assert_close(state_of(found)[name], tensor, rtol=2e-3, atol=2e-5)
    steps = [line.split("\t")[0] for line in (tmp_path / "live/plots/metrics/val/loss.tsv").read_text().splitlines()]
    assert steps == ["step", "1", "2", "3"]


@pytest.mark.slow
def test_nan_in_one_process_ends_all_with_one_sentence(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training diverged in epoch 2, step 4: loss nan") as e:
        fit_two(Spoiled, manifest, cache, tmp_path)
    assert e.value.see == "`cnncodes lr-find`"
    kept = checkpoints.read(tmp_path / checkpoints.LAST)
    assert kept["epoch"] == 0
    assert all(torch.isfinite(tensor).all() for tensor in kept["state_dict"].values())


@pytest.mark.network
@pytest.mark.slow
def test_the_stage_on_two_devices_writes_what_it_writes_on_one(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    """Mixed images, dropout and workers too, which make it another run, but a whole one."""
    params = world.params(devices=2, workers=1)
    result = run_strategy("scratch", manifest, world.weights(), params, tmp_path, cache=cache)
    assert result["repeats"][0]["epochs"] == 2
    assert result["repeats"][0]["peak_memory_bytes"] > 1 << 20
    assert (tmp_path / "model.safetensors").is_file()
    assert not world.left(cache)
