"""Images whose pixels turn out to be broken when they are decoded have no row, are listed, and may not be too many."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import UserError
from pipeline.codes import extract
from pipeline.data import build as module
from pipeline.data import decode, originals, stamps
from pipeline.data.build import build
from pipeline.data.manifest import Manifest, read_failures
from pipeline.nets.weights import Weights
from pipeline.strategies.images import CachedView, cached
from tests.codes.conftest import make_params
from tests.data.stored import chunk
from tests.data.world import folder, params

pytestmark = pytest.mark.network

VIEW = CachedView("squash", 8, (0, 0, 0))
REASON = "broken: its picture data"


def damage(path: Path) -> None:
    """Ends the data of a PNG early, with right checksums and a right end."""
    data = path.read_bytes()
    at = data.index(b"IDAT")
    rows = data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")]
    path.write_bytes(data[: at - 4] + chunk(b"IDAT", rows[: len(rows) // 2]) + chunk(b"IEND", b""))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """10 images, one of which is damaged, and one of which is no image."""
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stamps, "TICK_NS", -1)
    root = folder(tmp_path / "photos")
    damage(root / "cat/3.png")
    (root / "dog/4.png").write_bytes(b"x")
    return root


def listed(photos: Path, **changes: Any) -> Manifest:
    return build(params(root=photos, **changes), photos.parent / "dataset")


def codes(manifest: Manifest, weights: Weights, out: Path) -> list[int]:
    return [len(c) for c in extract(manifest, weights, make_params(precision="fp32"), out).values()]


def test_a_broken_image_has_no_row_and_is_listed(photos: Path, weights: Weights, tmp_path: Path) -> None:
    manifest = listed(photos)
    assert len(manifest) == 9 and [f.path for f in read_failures(tmp_path / "dataset")] == ["dog/4.png"]
    assert codes(manifest, weights, tmp_path / "out") == [8, 8]
    with (tmp_path / "out/failures.csv").open() as file:
        (row,) = list(csv.DictReader(file))
    assert row["path"] == "cat/3.png" and row["reason"].startswith("broken: ")
    found = cached(manifest, VIEW, tmp_path / "cache")
    assert [str(manifest.paths[i]) for i in (found.at < 0).nonzero()[0]] == ["cat/3.png"]


def test_too_many_are_the_error_that_they_were(photos: Path, weights: Weights, tmp_path: Path) -> None:
    """Those that were left out as the set was listed count, so 2 of 10 are broken."""
    said = r"2 of 10 files can't be used \(1 x broken: .*: cat/3\.png; and 1 when .* listed\); allowed: a share of 0.15"
    manifest = listed(photos, max_failed_share=0.15)
    with pytest.raises(UserError, match=said) as found:
        codes(manifest, weights, tmp_path / "out")
    assert found.value.see == str(tmp_path / "out/failures.csv") and "cat/3.png" in Path(found.value.see).read_text()
    with pytest.raises(UserError, match=said):
        cached(manifest, VIEW, tmp_path / "cache")
    assert codes(listed(photos, max_failed_share=0.2), weights, tmp_path / "out") == [8, 8]


def test_none_may_be_broken_where_errors_fail(photos: Path, weights: Weights, tmp_path: Path) -> None:
    (photos / "dog/4.png").unlink()
    manifest = listed(photos, on_error="fail")
    with pytest.raises(UserError, match=r"1 of 9 files .*cat/3\.png.*on_error is fail"):
        codes(manifest, weights, tmp_path / "out")


def test_a_set_of_broken_images_alone_has_no_codes(photos: Path, weights: Weights, tmp_path: Path) -> None:
    (photos / "dog/4.png").unlink()
    for path in set(photos.rglob("*.png")) - {photos / "cat/3.png"}:
        damage(path)
    with pytest.raises(UserError, match="holds no readable images"):
        codes(listed(photos, max_failed_share=1.0), weights, tmp_path / "out")


def test_a_list_that_is_kept_elsewhere_has_them_too(photos: Path, weights: Weights, tmp_path: Path) -> None:
    """As of commands that have no folder of their own for it."""
    manifest = build(params(root=photos), tmp_path / "dataset", fleeting=True)
    codes(manifest, weights, tmp_path / "out")
    kept = read_failures(module.kept_failures(photos))
    assert [(f.path, f.kind) for f in kept] == [("cat/3.png", "broken"), ("dog/4.png", "broken")]


def test_that_an_image_is_whole_is_found_once(
    photos: Path, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def told(*args: Any, known_whole: bool, **how: Any) -> Any:
        asked.append(known_whole)
        return decode.decode(*args, known_whole=known_whole, **how)

    monkeypatch.setattr(originals, "decode", told)
    manifest = listed(photos)
    codes(manifest, weights, tmp_path / "out")
    assert asked == [False] * 9
    asked.clear()
    cached(manifest, VIEW, tmp_path / "cache")
    assert sorted(asked) == [False] + [True] * 8
