"""Folders of codes by different networks, compared in one table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Workspace, compare, compare_networks, extract
from pipeline.base import json_files
from pipeline.base.errors import UserError
from tests.cli.process import cnncodes
from tests.pictures import draw_classes

IMAGE = {"crop": 32, "scales": [32], "precision": "fp32", "device": "cpu"}
GRIDS: dict[str, Any] = {"c_grid": [1.0], "k_grid": [1]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Codes of the same 30 images by a small VGG and by VGG-11."""
    place = tmp_path_factory.mktemp("networks")
    draw_classes(place / "photos", per_class=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(place / "cache"))
        for arch, layers in (("tinyvgg", ["conv5_2-avg", "pool3-avg"]), ("vgg11", ["pool2-avg"])):
            extract(place / "photos", out=place / arch, layers=layers, arch=arch, weights="random:0", codes=IMAGE)
    return place / "tinyvgg", place / "vgg11"


def test_a_row_for_each_network_layer_and_head(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}
    page = compare_networks(folders, out=tmp_path / "which", heads=["svm", "knn"], head_params=GRIDS)
    assert page == tmp_path / "which/report/index.html"
    found = json_files.read(tmp_path / "which/compare.json")
    rows = found["rows"]
    assert {(r["network"], r["layer"], r["head"]) for r in rows} == {
        (network, layer, head)
        for network, layer in (("tinyvgg", "conv5_2-avg"), ("tinyvgg", "pool3-avg"), ("vgg11", "pool2-avg"))
        for head in ("svm", "knn")
    }
    assert [r["mean"] for r in rows] == sorted((r["mean"] for r in rows), reverse=True)
    assert rows[0]["verdict"] == "best" and all(r["n"] == 5 for r in rows)
    assert all(r["seconds_per_image"] > 0 and r["bytes"] > 0 for r in rows)
    assert found["networks"]["vgg11"]["source"] == "random:0"
    text = page.read_text()
    assert "vgg11" in text and "Seconds an image" in text and "faint. Times are" in " ".join(text.split())
    # The folders are as they were: no head, no page, nothing written again.
    assert {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")} == before


def test_a_network_has_the_figures_that_it_has_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    compare_networks(folders, out=tmp_path / "which", heads=["svm"], head_params=GRIDS)
    rows = json_files.read(tmp_path / "which/compare.json")["rows"]
    alone = shutil.copytree(folders[0], tmp_path / "alone")
    compare(Workspace.open(alone), heads=["svm"], head_params=GRIDS)
    for row in rows:
        if row["network"] == "tinyvgg":
            mean = json_files.read(alone / f"heads/{row['layer']}-svm/metrics.json")["mean"]["accuracy"]
            assert row["mean"] == mean


def test_a_second_run_trains_nothing(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare_networks(folders, out=tmp_path / "which", heads=["svm"], layers=["pool2"], head_params=GRIDS)

    def trained(*_: Any, **__: Any) -> None:
        raise AssertionError("a head was trained again")

    monkeypatch.setattr("pipeline.heads.every.fit_head", trained)
    compare_networks(folders, out=tmp_path / "which", heads=["svm"], layers=["pool2"], head_params=GRIDS)
    rows = json_files.read(tmp_path / "which/compare.json")["rows"]
    assert [row["network"] for row in rows] == ["vgg11"]


def test_two_of_one_architecture_are_named_by_their_folders(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(folders[0], tmp_path / "other-one")
    compare_networks([folders[0], other], out=tmp_path / "which", heads=["knn"], head_params=GRIDS)
    found = json_files.read(tmp_path / "which/compare.json")
    assert set(found["networks"]) == {"tinyvgg_tinyvgg", "tinyvgg_other_one"}


def test_images_that_are_gone_are_not_timed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    copies = [shutil.copytree(folder, tmp_path / folder.name) for folder in folders]
    for copy in copies:
        record = json.loads((copy / "dataset/dataset.json").read_text())
        record["root"] = str(tmp_path / "nowhere")
        (copy / "dataset/dataset.json").write_text(json.dumps(record))
    page = compare_networks(copies, out=tmp_path / "which", heads=["knn"], head_params=GRIDS)
    rows = json_files.read(tmp_path / "which/compare.json")["rows"]
    assert {row["seconds_per_image"] for row in rows} == {None}
    assert "Seconds an image" not in page.read_text()


def test_other_images_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    draw_classes(tmp_path / "others", per_class=5)
    other = extract(
        tmp_path / "others", out=tmp_path / "o", layers=["conv5_2-avg"], arch="tinyvgg", weights="random:0", codes=IMAGE
    )
    with pytest.raises(UserError, match="other images: 15 there, 30 here"):
        compare_networks([folders[0], other.root], out=tmp_path / "which")
    with pytest.raises(UserError, match="named twice"):
        compare_networks([folders[0], folders[0]], out=tmp_path / "which")
    with pytest.raises(UserError, match="holds codes itself"):
        compare_networks(folders, out=folders[0])
    with pytest.raises(UserError, match="no folder holds codes of fc7"):
        compare_networks(folders, out=tmp_path / "which", layers=["fc7"])
    assert not (tmp_path / "which").exists()


def test_other_splits_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = Workspace.open(folders[0]).manifest()
    root = manifest.root
    other = extract(
        root, out=tmp_path / "o", layers=["conv5_2-avg"], arch="tinyvgg", weights="random:0", codes=IMAGE,
        dataset={"seed": 1},
    )  # fmt: skip
    assert np.array_equal(other.manifest().ids, manifest.ids)
    with pytest.raises(UserError, match="other splits"):
        compare_networks([folders[0], other.root], out=tmp_path / "which")


@pytest.mark.network
@pytest.mark.one_precision
def test_the_command_prints_the_table(folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = cnncodes("compare", *map(str, folders), "--out", "which", "--heads", "knn", "--k-grid", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["network", "layer", "head"] and len(lines) == 5
    assert lines[-1] == "which/report/index.html"
    refused = cnncodes("compare", *map(str, folders), cwd=tmp_path)
    assert refused.returncode == 2 and "--out FOLDER" in refused.stderr
