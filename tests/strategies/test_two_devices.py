"""Two processes that share every batch, with checkpoints that are kept: killed, they go on to the very same end, and
from a checkpoint too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.manifest import Manifest
from pipeline.strategies import kept, saved
from pipeline.strategies.run import run_strategy
from tests.strategies import world

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SAME = ("predictions.csv", "curves.csv", "groups.json", saved.MODEL, saved.HEAD)
# It has norms, which each process has of its own within an epoch.
STRATEGY = "cnn"
# 24 images train in 4 batches of 6, of which 3 go to each; 9 validate in 2. Images are mixed, and units dropped, by
# each process for itself.
SETTINGS: dict[str, Any] = {
    "precision": "fp32",
    "optimiser": "adam",
    "learning_rate": 0.002,
    "batch_size": 6,
    "epochs": 4,
    "keep_every": 1,
    "devices": 2,
}
# The process `rank` waits where it is told: "rank epoch batch". What there is to keep is kept at once. All of it stands
# where the processes that are spawned find it.
RUN = """
import sys, time
from pathlib import Path
import torch
from pipeline.base import front, stopping
from pipeline.data.manifest import Manifest
from pipeline.strategies.run import run_strategy
from pipeline.strategies.training import Training
from tests.strategies import world
from tests.strategies.test_two_devices import SETTINGS, STRATEGY
torch.set_num_threads(1)
here, at = Path(sys.argv[1]), sys.argv[2]
stopping.KEEP_EVERY_S, stopping._MOST_SHARE = 0.0, float("inf")
step = Training.training_step
def waiting(training, batch, index):
    if at == f"{training.parts.part.rank} {training.current_epoch} {index}":
        (here / "there").touch()
        time.sleep(300)
    return step(training, batch, index)
Training.training_step = waiting
def main():
    run_strategy(STRATEGY, Manifest.read(here / "dataset"), world.weights(), world.params(**SETTINGS),
                 here / "killed", cache=here / "cache")
if __name__ == "__main__":
    front.run(main, name="run")
"""


def killed(here: Path, at: str, how: signal.Signals, *, only: str = "") -> str:
    """A run that a signal met where it waits: all its processes as by a terminal, `only` the first, or one that it
    spawned. What it said last.
    """
    script = here / "run.py"
    script.write_text(RUN)
    run = subprocess.Popen(
        [sys.executable, str(script), str(here), at],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (here / "there").exists():
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)
    (here / "there").unlink()
    spawned = trainers(run.pid)
    assert len(spawned) == 2
    if only:
        os.kill(run.pid if only == "first" else spawned[0], how)
    else:
        os.killpg(run.pid, how)
    said = run.communicate(timeout=60)[1]
    ends_s = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in spawned) and time.monotonic() < ends_s:
        time.sleep(0.05)
    assert not [pid for pid in spawned if Path(f"/proc/{pid}").exists()], "no process outlives the run"
    return said.splitlines()[-1] if said else ""


def trainers(pid: int) -> list[int]:
    """The processes that a run has spawned for its devices."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def undisturbed(manifest: Manifest, tmp_path: Path) -> Path:
    """What a run has written that nothing stopped."""
    manifest.write(tmp_path / "dataset")
    found = train(manifest, tmp_path / "whole", tmp_path / "whole-cache")
    assert found["devices"] == 2
    return tmp_path / "whole"


def train(manifest: Manifest, out: Path, cache: Path, **own: Any) -> dict[str, Any]:
    return run_strategy(STRATEGY, manifest, world.weights(), world.params(**SETTINGS), out, cache=cache, **own)


def test_killed_they_go_on_to_the_undisturbed_bytes(undisturbed: Path, manifest: Manifest, tmp_path: Path) -> None:
    killed(tmp_path, "0 0 2", signal.SIGKILL, only="first")
    said = killed(tmp_path, "1 2 1", signal.SIGKILL, only="a spawned one")
    assert "a training process ended by SIGKILL; checkpoints are kept" in said
    assert kept_in(tmp_path / "killed") == [1, 2]
    said = killed(tmp_path, "1 2 3", signal.SIGTERM)
    assert "stopped by SIGTERM; 2 of 4 epochs and 3 batches of the next are kept; the same command goes on" in said
    train(manifest, tmp_path / "killed", tmp_path / "cache")
    assert_same(tmp_path / "killed", undisturbed)
    for epoch in (1, 2, 3, 4):
        own, other = (state_of(out, epoch) for out in (tmp_path / "killed", undisturbed))
        assert str(own) == str(other), epoch
    assert not world.left(tmp_path / "cache")

    # Its checkpoints are as good as others.
    start = kept.folder_of(tmp_path / "killed", 0) / kept.name_of(2)
    on = train(manifest, tmp_path / "on", tmp_path / "cache", resume=start)
    assert [(one["repeat"], one["epoch"]) for one in on["went_on_from"]] == [(0, 2)]
    assert_same(tmp_path / "on", undisturbed, epochs=[3, 4])


def assert_same(found: Path, whole: Path, *, epochs: Sequence[int] = (1, 2, 3, 4)) -> None:
    for name in SAME:
        assert (found / name).read_bytes() == (whole / name).read_bytes(), name
    assert kept_in(found) == list(epochs)
    for epoch in epochs:
        own, other = (kept.Kept.open(kept.folder_of(out, 0) / kept.name_of(epoch)) for out in (found, whole))
        assert world.same(own.model(), other.model()), epoch


def kept_in(out: Path) -> list[int]:
    return [kept.Kept.open(file).epoch for file in kept.files(kept.folder_of(out, 0))]


def state_of(out: Path, epoch: int) -> dict[str, Any]:
    """What a training goes on with, but for its times."""
    state, _ = kept.Kept.open(kept.folder_of(out, 0) / kept.name_of(epoch)).training()
    return state | {"seconds": ...}
