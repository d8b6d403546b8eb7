"""`cnncodes advise` and `cnncodes weights reference` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.process import cnncodes
from tests.cli.test_codes import BASE, error_of
from tests.pictures import draw_classes

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both

TINY = ["--arch", "tinyvgg", "--weights", "random:0", "--size", "32", "--layers", "conv4_1-avg,pool5-avg"]


def test_advice_on_images_then_with_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    draw_classes(tmp_path / "photos", per_class=30)
    done = cnncodes("advise", "photos", *TINY, "--out", "codes", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["spec"] in ("conv4_1-avg", "pool5-avg") and record["size"] == "small"
    assert record == json.loads((tmp_path / "codes/advise/metrics.json").read_text()) | {"left_out": []}
    assert "left out" in record["says"]["distance"]
    made = cnncodes("weights", "reference", "photos", "--like", "codes", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["images"] == 90
    again = cnncodes("advise", "codes", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "From the reference photos" in again.stdout and record["says"]["do"] in again.stdout


def test_a_folder_without_images_and_a_missing_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    assert "holds no files" in error_of(cnncodes("advise", "empty", *BASE, cwd=tmp_path))
