"""What a stop costs a head: each fit is cut short at many points, and the next one ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base import disk, stopping, unfinished
from pipeline.base.unfinished import Part
from pipeline.heads import crammer_singer, softmax, svm
from pipeline.heads.newton import Weights
from pipeline.heads.registry import HEADS
from pipeline.heads.run import fit_head
from tests.heads.world import blobs, dataset, params

FILES = ("model.h5", "predictions.h5")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps whatever there is to keep, and does not wait for the disk."""
    monkeypatch.setattr(disk, "sync", lambda path: None)
    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)


class Cut(KeyboardInterrupt):
    pass


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Stops a run when so many pieces were kept; the list holds the names of those that are."""
    keep = unfinished._Book.keep
    left: list[int] = [0]
    kept: list[str] = []

    def counted(self: Any, name: str, make: Callable[[], Part], clock: Any) -> None:
        keep(self, name, make, clock)
        kept.append(name)
        left[0] -= 1
        if left[0] == 0:
            raise Cut

    monkeypatch.setattr(unfinished._Book, "keep", counted)

    def begin(count: int) -> list[str]:
        left[0] = count
        kept.clear()
        return kept

    yield begin


def test_pieces_come_back_with_their_layout_and_not_without_what_they_are_part_of(
    tmp_path: Path, at_once: None
) -> None:
    x = np.arange(6.0).reshape(2, 3)
    arrays = {"c": x, "f": x.T, "none": np.zeros((0, 3)), "yes": np.array([True, False]), "one": np.array(np.inf)}
    with pytest.raises(Cut), unfinished.of(tmp_path, {"a": 1}) as so_far:
        so_far.part("a").keep(lambda: Part(arrays, {"text": "ä", "number": 0.1}))
        so_far.part("a").part("b").keep(lambda: Part({"x": x}))
        raise Cut
    with pytest.raises(Cut), unfinished.of(tmp_path, {"a": 2}) as other:
        assert other.part("a").found() is None
        raise Cut
    with pytest.raises(Cut), unfinished.of(tmp_path, {"a": 1}) as so_far:
        assert not so_far.written
        assert so_far.part("a").part("b").found() is None, "that of which it is part was not taken"
        found = so_far.part("a").found()
        assert so_far.written and found is not None
        assert found.values == {"text": "ä", "number": 0.1}
        for name, value in arrays.items():
            assert found.arrays[name].dtype == value.dtype
            np.testing.assert_array_equal(found.arrays[name], value)
        assert found.arrays["f"].flags.f_contiguous and found.arrays["c"].flags.c_contiguous
        assert so_far.part("a").part("b").found() is not None
        so_far.part("a").keep(Part)
        assert so_far.part("a").part("b").found() is None and so_far.part("a").found() is None, "this run is beyond it"
        raise Cut
    with unfinished.of(tmp_path, {"a": 1}) as so_far:
        assert so_far.part("a").part("b").found() is None
    assert not list((tmp_path / unfinished.FOLDER).iterdir()), "the results stand"


def test_what_is_quick_writes_nothing_and_what_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unfinished.of(tmp_path, {}) as so_far:
        so_far.part("a").keep(Part)
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)
    (tmp_path / "file").touch()
    with unfinished.of(tmp_path / "file", {}) as so_far:
        so_far.part("a").keep(Part)
        assert not so_far.written


def test_a_broken_piece_is_not_there(tmp_path: Path, at_once: None) -> None:
    with pytest.raises(Cut), unfinished.of(tmp_path, {}) as so_far:
        so_far.part("a").keep(lambda: Part({"x": np.ones(9)}))
        raise Cut
    (file,) = tmp_path.rglob("*.h5")
    file.write_bytes(file.read_bytes()[:-8])
    with unfinished.of(tmp_path, {}) as so_far:
        assert so_far.part("a").found() is None


@pytest.mark.parametrize(
    ("head", "in_weights"),
    [*((head, False) for head in HEADS), ("svm", True), ("softmax", True)],
)
def test_a_fit_goes_on_from_every_point_to_the_same_bytes(
    head: str,
    *,
    in_weights: bool,
    tmp_path: Path,
    at_once: None,
    cut_after: Callable[[int], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`in_weights`: by the weights themselves, not in the span of the rows."""
    x, y = blobs(60, 12, 3, apart=0.5)
    codes, manifest = dataset(x, [f"class {c}" for c in y])
    asked = params(c_grid=[0.1, 10.0], k_grid=[1, 3])
    if in_weights:
        for module in (svm, softmax, crammer_singer):
            monkeypatch.setattr(module, "space_of", Weights)
    whole = cut_after(0)
    fit_head(codes, manifest, asked, head, tmp_path / "whole", cache=tmp_path / "a")
    points = len(whole)
    assert points > 4 and not list(tmp_path.glob("a/unfinished/*"))
    for count in (2, points // 2, points - 1):
        out = tmp_path / f"cut-{count}"
        cut_after(count)
        with pytest.raises(Cut) as stopped:
            fit_head(codes, manifest, asked, head, out, cache=tmp_path / "b")
        assert "kept; the same command goes on" in stopped.value.__notes__[0]
        assert not out.exists()
        again = cut_after(0)
        fit_head(codes, manifest, asked, head, out, cache=tmp_path / "b")
        assert len(again) == points - count
        for name in FILES:
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (count, name)
        assert timeless(out) == timeless(tmp_path / "whole")
        assert not list(tmp_path.glob("b/unfinished/*"))


def timeless(folder: Path) -> Any:
    record = json.loads((folder / "metrics.json").read_text())
    for part in (record["mean"], record["std"], *record["repeats"]):
        del part["fit_s"], part["predict_s"]
    return record
