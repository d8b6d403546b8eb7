"""`cnncodes lr-find`, really stopped in the middle of a sweep, and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pictures import draw_classes
from tests.test_imports import ROOT

# The command line; the library's tests are run in both precisions.
pytestmark = [pytest.mark.network, pytest.mark.one_precision, pytest.mark.slow]

STEPS = 12
# What there is to keep is kept at once; each step takes a while and writes a line to `counted`.
CODE = """
import sys, time
from pathlib import Path
from pipeline import cli
from pipeline.base import stopping
from pipeline.strategies import lr_find
stopping.Timer.is_due = lambda self: True
counted, pause, step = Path(sys.argv.pop(1)), float(sys.argv.pop(1)), lr_find._step
def slow(*args):
    with counted.open("a") as f: f.write("step\\n")
    time.sleep(pause)
    return step(*args)
lr_find._step = slow
cli.main()
"""
SMALL = ["--arch", "tinyvgg", "--weights", "random:0", "--size", "32", "--batch-size", "8", "--device", "cpu"]
SWEEP = ["--strategy", "scratch", "--steps", str(STEPS), "--low", "1e-6", "--high", "1e-3", "--precision", "fp32"]


class Place:
    """A folder with photos/ that runs are started in, each with a cache of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        draw_classes(root / "photos", per_class=10)

    def start(self, name: str, *, pause: float = 0.0) -> subprocess.Popen[str]:
        asked = ["lr-find", "photos", *SMALL, *SWEEP, "--plot", f"{name}.svg", "--json"]
        own = {"CNNCODES_CACHE": str(self.root / name), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", CODE, str(self.root / f"{name}-steps"), str(pause), *asked],
            cwd=self.root,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str) -> str:
        run = self.start(name)
        out, err = run.communicate()
        assert run.returncode in (0, 3), err  # 3: at these rates the loss need not fall
        return out

    def steps(self, name: str) -> int:
        file = self.root / f"{name}-steps"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def stopped(self, name: str, how: signal.Signals, *, after: int, wait: float = 0.0) -> subprocess.Popen[str]:
        """A run that was sent a signal in the step that follows `after` more of them."""
        wanted, run = self.steps(name) + after + 1, self.start(name, pause=0.2)
        while self.steps(name) < wanted:
            assert run.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        run.send_signal(how)
        return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("lr-find"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_what_is_kept_and_how_to_go_on(how: signal.Signals, place: Place) -> None:
    name = how.name
    run = place.stopped(name, how, after=3)
    out, err = run.communicate()
    assert (run.returncode, out) == (128 + how, "")
    by = "Ctrl-C" if how == signal.SIGINT else how.name
    said = f"stopped by {by}; 3 of {STEPS} steps of the sweep are kept; the same command goes on from there"
    assert said in err.splitlines()[-1]


def test_before_the_first_step_is_done_it_says_that_it_begins_again(place: Place) -> None:
    said = place.stopped("at-once", signal.SIGTERM, after=0).communicate()[1].splitlines()[-1]
    assert "decoded images are kept; the same command begins the sweep again" in said


@pytest.fixture(scope="module")
def whole(place: Place) -> str:
    """What an undisturbed run answers; its picture is whole.svg."""
    answer = place.run("whole")
    assert len(json.loads(answer)["losses"]) == STEPS
    return answer


@pytest.mark.parametrize("seed", range(2))
def test_killed_anywhere_it_ends_with_the_undisturbed_bytes(seed: int, whole: str, place: Place) -> None:
    drawn, name = random.Random(seed), f"killed-{seed}"
    kills = [drawn.randrange(1, 4) for _ in range(2)]
    for after in kills:
        # In the step, or while its state is being written.
        assert place.stopped(name, signal.SIGKILL, after=after, wait=drawn.uniform(0, 0.3)).wait() == -signal.SIGKILL
    assert place.run(name) == whole
    assert STEPS <= place.steps(name) <= STEPS + 2 * len(kills), "all but the last steps were kept"
    assert (place.root / f"{name}.svg").read_bytes() == (place.root / "whole.svg").read_bytes()
    assert not list((place.root / name / "finetune-runs").iterdir())
