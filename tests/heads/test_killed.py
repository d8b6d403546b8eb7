"""`compare`, really killed in the middle of a head, and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.base.cache import training_gc, training_sizes
from tests.heads.test_kept import FILES, timeless

pytestmark = pytest.mark.slow

# Codes of two specs; every Newton step writes a line to `counted`, and what there is to keep is kept at once.
CODE = """
import sys, time; from pathlib import Path
import numpy as np
from pipeline import workspace
from pipeline.base import front, stopping, unfinished
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest
from pipeline.heads import newton
from tests.heads.world import blobs, dataset
base, slow = Path(sys.argv[1]), sys.argv[2] == "slow"
stopping.Timer.is_due = lambda self: True
x, y = blobs(80, 12, 3, apart=0.5)
codes, manifest = dataset(x, [f"class {c}" for c in y])
class Space(workspace.Workspace):
    def specs(self): return ["pool5-avg"]
    def codes(self, spec): return codes
    def manifest(self): return manifest
workspace.require_writable = lambda path: None
step = newton._newton_step
def counted(*args):
    with (base / "counted").open("a") as f: f.write("step\\n")
    if slow and len((base / "counted").read_text().splitlines()) > 30: time.sleep(60)
    return step(*args)
newton._newton_step = counted
import pipeline.figures.run, pipeline.report
pipeline.figures.run.compute = lambda *args, **settings: None
pipeline.report.build = lambda *args, **settings: base / "page"
def main():
    workspace.compare(Space(base / "out"), heads=["knn", "svm", "softmax"], head_params={"c_grid": [0.1, 10.0]})
front.run(main, name="compare")
"""


def start(base: Path, how: str) -> subprocess.Popen[str]:
    base.mkdir(exist_ok=True)
    own = {"CNNCODES_CACHE": str(base / "cache")}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(base), how], stderr=subprocess.PIPE, text=True, env=os.environ | own
    )


def steps(base: Path) -> int:
    file = base / "counted"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_compare_goes_on_where_it_was(by: signal.Signals, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = start(whole, "quick")
    assert first.wait() == 0, first.stderr and first.stderr.read()
    assert steps(whole) > 32
    process = start(killed, "slow")
    while steps(killed) <= 30:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(by)
    said = process.communicate()[1]
    if by == signal.SIGTERM:
        assert process.returncode == 143
        assert "kept; the same command goes on from there" in said.splitlines()[-1]
        assert "of 3 heads are finished and kept" in said.splitlines()[-1]
    assert any(row["key"] == "unfinished" for row in training_sizes(killed / "cache"))
    again = start(killed, "quick")
    assert again.wait() == 0, again.stderr and again.stderr.read()
    # The step that the kill fell into is made again, and no other.
    assert steps(killed) == steps(whole) + 1
    for head in ("knn", "svm", "softmax"):
        own = Path("out/heads") / f"pool5-avg-{head}"
        for name in FILES:
            assert (killed / own / name).read_bytes() == (whole / own / name).read_bytes(), (head, name)
        assert timeless(killed / own) == timeless(whole / own)
    assert not list(killed.glob("cache/unfinished/*"))
    count = steps(killed)
    assert start(killed, "quick").wait() == 0
    assert steps(killed) == count, "finished heads are not trained again"
    training_gc(killed / "cache")
    assert not [row for row in training_sizes(killed / "cache") if row["key"] in ("unfinished", "heads-done")]
