"""`cnncodes sanity` in a process of its own: its verdicts, its picture and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.process import cnncodes
from tests.cli.test_codes import error_of
from tests.pictures import draw_classes

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both


def test_each_step_is_said_and_drawn(tmp_path: Path) -> None:
    draw_classes(tmp_path / "photos", per_class=12)
    args = ("sanity", "photos", "--strategy", "fc", "--size", "32", "--batch-size", "8", "--rounds", "1")
    network = ("--arch", "tinyvgg", "--weights", "random:0", "--device", "cpu", "--epochs", "1")
    done = cnncodes(*args, *network, "--plot", "steps.png", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert done.returncode == (1 if answer["verdict"] == "fail" else 0), done.stderr
    assert [s["name"] for s in answer["steps"]][:4] == [
        "initial loss",
        "overfit a handful of batches",
        "learning rate",
        "coarse grid",
    ]
    assert answer["steps"][1]["verdict"] == "pass"
    assert Image.open(tmp_path / "steps.png").width > 800
    assert "unknown strategy" in error_of(cnncodes("sanity", "photos", "--strategy", "none", *network, cwd=tmp_path))
