"""Killed within an epoch, a run goes on from there to the very same end; stopped, it lets the signal out as it came."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.base import stopping
from pipeline.data.manifest import Manifest
from pipeline.strategies import checkpoints, saved
from pipeline.strategies.training import Training
from tests.strategies import world
from tests.strategies.test_training import made_of, run

pytestmark = pytest.mark.network

ROOT = Path(__file__).parents[2]
# 24 images train in 6 batches, 3 steps; 9 validate in 3 batches.
SETTINGS = {"optimiser": "adam", "learning_rate": 0.002, "accumulate": 2, "epochs": 3, "clip": 1.0, "batch_size": 4}
LIMITS = {"epochs": 3, "clip": 1.0}


class Watched:
    """Which batches went through, as (split, epoch, index), and where to be killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.kill_at: tuple[str, int, int] | None = None
        for split, name in (("train", "training_step"), ("val", "validation_step")):
            monkeypatch.setattr(Training, name, self._watching(split, getattr(Training, name)))

    def _watching(self, split: str, step: Any) -> Any:
        def watching(training: Training, batch: Any, index: int) -> Any:
            # Where validation goes on, the trainer counts from 0 again.
            at = (split, training.current_epoch, index if split == "train" else training.val_batches)
            if at == self.kill_at:
                raise ConnectionAbortedError("killed")
            torch.rand(3)  # another process has drawn other random numbers by now
            self.seen.append(at)
            return step(training, batch, index)

        return watching


@pytest.mark.parametrize("name", ["scratch", "gradual", "resnet18"])
def test_killed_within_an_epoch_it_goes_on_from_the_last_step(
    name: str, manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, whole = made_of(name, manifest, cache, **SETTINGS)
    expected = run(made, tmp_path / "whole", **LIMITS)

    monkeypatch.setattr(stopping, "KEEP_EVERY_S", 0.0)
    monkeypatch.setattr(stopping, "_MOST_SHARE", float("inf"))
    watched = Watched(monkeypatch)
    kills = [("train", 0, 5), ("val", 0, 2), ("train", 1, 2), ("train", 1, 4), ("val", 1, 0), ("val", 2, 1)]
    for kill_at in kills:
        watched.kill_at = kill_at
        made, training = made_of(name, manifest, cache, **SETTINGS)
        with pytest.raises(ConnectionAbortedError):
            run(made, tmp_path / "killed", **LIMITS)
    watched.kill_at = None
    made, training = made_of(name, manifest, cache, **SETTINGS)
    found = run(made, tmp_path / "killed", **LIMITS)

    # Once each, but for the first batch of a step that was broken off, the one before a batch of validation, which is
    # written down as it begins, and the last step, after which validation begins.
    every = [("train", e, i) for e in range(3) for i in range(6)] + [("val", e, i) for e in range(3) for i in range(3)]
    again = [("train", 0, 4), ("val", 0, 1), ("train", 1, 4), ("train", 1, 5), ("val", 2, 0)]
    assert sorted(watched.seen) == sorted([*every, *again])
    assert training.curve == whole.curve
    assert world.same(found, expected)
    a, b = (checkpoints.read(tmp_path / f / checkpoints.LAST) for f in ("whole", "killed"))
    assert world.same(a["state_dict"], b["state_dict"])
    assert str(a["optimizer_states"]) == str(b["optimizer_states"])
    assert b["begun"] is None
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {checkpoints.BEST, checkpoints.LAST}


# Stops where told: at a batch of training, of validation, or between two runs of the loop.
RUN = """
import os, signal, sys, time
from pathlib import Path
import torch
from pipeline.base import front, stopping
from pipeline.data.manifest import Manifest
from pipeline.strategies.run import run_strategy
from pipeline.strategies.training import Training
from tests.strategies import world
torch.set_num_threads(1)
here, out, at, devices = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
stopping.KEEP_EVERY_S, stopping._MOST_SHARE = 0.0, float("inf")
def main():
    def stopped(split, step):
        def stopping_step(training, batch, index):
            if at == f"{split} {training.current_epoch} {index}":
                print("there", flush=True)
                time.sleep(90)
            return step(training, batch, index)
        return stopping_step
    Training.training_step = stopped("train", Training.training_step)
    Training.validation_step = stopped("val", Training.validation_step)
    run_strategy("scratch", Manifest.read(here / "dataset"), world.weights(),
                 world.params(epochs=3, batch_size=4, precision="fp32", devices=devices),
                 here / out, cache=here / f"{out}-cache")
if __name__ == "__main__":
    front.run(main, name="run")
"""


def start(here: Path, out: str, at: str = "", devices: int = 1) -> subprocess.Popen[str]:
    script = here / "run.py"
    script.write_text(RUN)
    return subprocess.Popen(
        [sys.executable, str(script), str(here), out, at, str(devices)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(run: subprocess.Popen[str]) -> None:
    assert run.stdout is not None
    assert run.stdout.readline() == "there\n"
    run.kill()
    run.communicate()


def stop(run: subprocess.Popen[str], how: signal.Signals) -> str:
    """Once it is where it waits, as a terminal would, the whole group; the last line that it says."""
    assert run.stdout is not None
    assert run.stdout.readline() == "there\n"
    os.killpg(run.pid, how)
    return run.communicate(timeout=60)[1].splitlines()[-1]


@pytest.mark.one_precision  # the one that RUN names
@pytest.mark.parametrize(
    ("how", "at", "kept"),
    [
        (signal.SIGTERM, "train 1 3", "1 of 3 epochs and 3 batches of the next are kept; the same command goes on"),
        (signal.SIGINT, "val 1 1", "1 of 3 epochs and 6 batches of the next are kept; the same command goes on"),
        (signal.SIGINT, "train 0 0", "no epoch is done yet: the same command begins this training again"),
    ],
)
def test_stopped_it_ends_by_the_signal_and_says_what_is_kept(
    how: signal.Signals, at: str, kept: str, manifest: Manifest, tmp_path: Path
) -> None:
    manifest.write(tmp_path / "dataset")
    run = start(tmp_path, "out", at)
    said = stop(run, how)
    assert run.returncode == 128 + how
    assert said.startswith(f"run: stopped by {'Ctrl-C' if how == signal.SIGINT else how.name}; ")
    assert kept in said
    assert not [p.name for p in tmp_path.rglob("*") if ".tmp" in p.name]


@pytest.mark.slow
@pytest.mark.one_precision  # the one that RUN names; in one process the same is tested above in both
def test_killed_or_stopped_it_ends_with_the_undisturbed_bytes(manifest: Manifest, tmp_path: Path) -> None:
    manifest.write(tmp_path / "dataset")
    assert start(tmp_path, "whole").wait() == 0
    for how, at in ((signal.SIGKILL, "train 0 4"), (signal.SIGTERM, "val 0 2"), (signal.SIGINT, "train 2 5")):
        run = start(tmp_path, "stopped", at)
        stop(run, how) if how != signal.SIGKILL else kill(run)
    assert start(tmp_path, "stopped").wait() == 0
    for name in ("predictions.csv", "curves.csv", saved.MODEL):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
