"""`--splits folders`: the top folders say which side an image is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.manifest import Manifest
from tests.cli.process import cnncodes
from tests.cli.test_codes import BASE
from tests.pictures import draw_classes

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both


def test_top_folders_are_the_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    draw_classes(tmp_path / "photos/train", per_class=8)
    draw_classes(tmp_path / "photos/test", per_class=3, seed=1)
    args = ("extract", "photos", *BASE, "--layers", "conv1_1", "--splits", "folders", "--out", "codes")
    done = cnncodes(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = Manifest.read(tmp_path / "codes/dataset")
    assert manifest.classes == ("blue", "green", "red")
    test = manifest.rows("test")
    assert len(test) == 9 and all(manifest.paths[i].startswith("test/") for i in test)
