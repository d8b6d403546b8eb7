"""A folder of codes that is filled again: what stays beside the new ones, and what goes only when it is said."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Workspace, compare, extract
from pipeline.base.errors import UserError
from pipeline.data import build as build_module
from tests.pictures import draw_classes

SMALL: dict[str, Any] = {
    "arch": "tinyvgg",
    "weights": "random:0",
    "codes": {"crop": 32, "scales": [32], "precision": "fp32", "device": "cpu"},
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_classes(tmp_path / "photos", per_class=4)
    return tmp_path / "photos"


def test_codes_that_may_not_be_entered_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were passed by, as if they weren't there."""
    for spec in ("conv5_2-avg", "pool3-flatten"):
        (tmp_path / "codes" / spec).mkdir(parents=True)
        (tmp_path / "codes" / spec / "codes.json").touch()
    stat = Path.stat

    def refused(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.parent.name == "pool3-flatten":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    assert Workspace(tmp_path).specs() == ["conv5_2-avg", "pool3-flatten"]
    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(PermissionError):
        Workspace(tmp_path).specs()


def test_codes_of_the_same_images_stay_beside_new_ones(photos: Path, tmp_path: Path) -> None:
    space = extract(photos, out=tmp_path / "codes", layers=["conv5_2-avg", "pool3-flatten"], **SMALL)
    before = (tmp_path / "codes/codes/pool3-flatten/part-00000.h5").read_bytes()
    assert extract(photos, out=space.root, layers=["conv5_2-avg-sigmoid"], **SMALL).specs() == [
        "conv5_2-avg",
        "conv5_2-avg-sigmoid",
        "pool3-flatten",
    ]
    assert (tmp_path / "codes/codes/pool3-flatten/part-00000.h5").read_bytes() == before
    # An image more is an image more of all of them.
    file = next(photos.rglob("*.png"))
    shutil.copyfile(file, file.with_name("copy.png"))
    extract(photos, out=space.root, layers=["conv5_2-avg"], **SMALL)
    assert {len(space.codes(spec)) for spec in space.specs()} == {13} == {len(space.manifest())}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"codes": SMALL["codes"] | {"crop": 64, "scales": [64]}}, "crop 32, not 64; scales"),
        ({"codes": SMALL["codes"] | {"precision": "bf16"}}, "precision fp32, not bf16"),
        ({"weights": "random:1"}, "weights_sha256"),
        ({"images": "others"}, "images of .*photos, not .*others"),
    ],
)
def test_what_would_go_is_said_before_an_image_is_read(
    change: dict[str, Any], why: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = extract(photos, out=tmp_path / "codes", layers=["conv5_2-avg", "pool3-flatten"], **SMALL)
    compare(space, heads=["knn"], specs=["conv5_2-avg"])
    draw_classes(tmp_path / "others", per_class=3)
    images = tmp_path / change.pop("images", "photos")
    asked = {**SMALL, **change}
    before = {p: p.read_bytes() for p in space.root.rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "verify", lambda *_, **__: pytest.fail("an image was opened"))
        with pytest.raises(UserError, match=rf"(?s)would go: conv5_2-avg \({why}.*pool3.*conv5_2-avg-knn.*--replace"):
            extract(images, out=space.root, layers=["conv5_2-avg"], **asked)
    assert {p: p.read_bytes() for p in space.root.rglob("*") if p.is_file()} == before
    again = extract(images, out=space.root, layers=["conv5_2-avg"], replace=True, **asked)
    assert again.specs() == ["conv5_2-avg"]
    assert not (space.root / "heads/conv5_2-avg-knn").exists()
    fresh = extract(images, out=tmp_path / "fresh", layers=["conv5_2-avg"], **asked)
    assert np.array_equal(again.codes("conv5_2-avg").rows(slice(None)), fresh.codes("conv5_2-avg").rows(slice(None)))


def test_codes_that_are_damaged_are_made_again_unasked(photos: Path, tmp_path: Path) -> None:
    space = extract(photos, out=tmp_path / "codes", layers=["conv5_2-avg"], **SMALL)
    (space.root / "codes/conv5_2-avg/codes.json").write_text("{")
    assert len(extract(photos, out=space.root, layers=["conv5_2-avg"], **SMALL).codes("conv5_2-avg")) == 12


def test_heads_of_other_codes_stay_when_others_are_compared(photos: Path, tmp_path: Path) -> None:
    space = extract(photos, out=tmp_path / "codes", layers=["conv5_2-avg", "pool3-flatten"], **SMALL)
    compare(space, heads=["knn"])
    compare(Workspace.open(space.root), heads=["knn"], specs=["pool3-flatten"])
    assert sorted(p.name for p in (space.root / "heads").iterdir()) == ["conv5_2-avg-knn", "pool3-flatten-knn"]
