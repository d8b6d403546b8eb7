"""`codes.compute.memory_mb` bounds what images in flight take together, and changes no value."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.codes import Embedder, extract, loading
from pipeline.codes.embedder import ImagesError
from pipeline.codes.forward import Forward, TooLargeError
from pipeline.codes.settings import Settings, resolve
from pipeline.codes.weights_header import WeightsHeader
from pipeline.data import originals
from pipeline.data.room import Room
from pipeline.nets.weights import Weights
from tests.codes.conftest import draw, make_manifest, make_params

pytestmark = pytest.mark.network

# A picture of 1000 x 1000 pixels takes 10 MB, and another does not fit beside it.
TIGHT_MB = 16
WHOLE: dict[str, Any] = {"view": "whole", "layers": ["conv3_3-avg"]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(9):
        side = 1000 if i % 3 == 0 else 60
        draw(tmp_path / "photos" / f"{i}.png", i, width=side, height=side)
    return tmp_path / "photos"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pixels were being decoded, each time that a decoder began."""
    now, seen, lock = [0], [], threading.Lock()
    decode = originals.decode

    def counted(data: bytes, **how: Any) -> Any:
        pixels = how["max_pixels"]
        with lock:
            now[0] += pixels
            seen.append(now[0])
        try:
            return decode(data, **how)
        finally:
            with lock:
                now[0] -= pixels

    monkeypatch.setattr(originals, "decode", counted)
    monkeypatch.setattr(loading, "_processors", lambda: 4)
    return seen


def failures(out: Path) -> dict[str, str]:
    with (out / "failures.csv").open() as f:
        return {row["path"]: row["reason"] for row in csv.DictReader(f)}


def specs_of(weights: Weights, **changes: Any) -> list[Settings]:
    header = WeightsHeader.of(weights)
    about = {"weights_sha256": header.sha256, "normalisation": header.normalisation}
    return list(resolve(make_params(**changes), arch=weights.arch, **about).values())


@pytest.mark.parametrize("view", [{}, {"view": "squash"}, WHOLE, WHOLE | {"flip": True, "scales": [64, 96]}], ids=str)
def test_little_memory_gives_the_same_rows(
    photos: Path, weights: Weights, tmp_path: Path, at_once: list[int], view: dict[str, Any]
) -> None:
    manifest, rows = make_manifest(photos), []
    for memory_mb in (TIGHT_MB, 4096):
        at_once.clear()
        params = make_params(memory_mb=memory_mb, **view)
        codes = extract(manifest, weights, params, tmp_path / "out", cache=tmp_path / str(memory_mb))["conv3_3-avg"]
        assert (len(codes), len(at_once)) == (9, 9)
        if memory_mb == TIGHT_MB:
            assert max(at_once) < 1_500_000
        rows.append((codes.fingerprint, codes.rows(slice(None)).tobytes()))
    assert rows[0] == rows[1]


def test_one_odd_image_is_listed_with_the_number_and_the_rest_goes_on(
    photos: Path, weights: Weights, tmp_path: Path
) -> None:
    draw(photos / "line.png", 10, width=6000, height=1)
    params = make_params(memory_mb=100, **WHOLE)
    codes = extract(make_manifest(photos), weights, params, tmp_path / "out")["conv3_3-avg"]
    (path, reason), *others = failures(tmp_path / "out").items()
    assert path == "line.png" and not others and len(codes) == 9
    # 384,000 x 64 pixels, with two maps of 4 channels in float32 and more.
    assert "6000 x 1 pixels: needs" in reason and "more than codes.compute.memory_mb (100)" in reason
    # The next one, with the memory for it, computes that image alone.
    more = extract(make_manifest(photos), weights, make_params(memory_mb=8192, **WHOLE), tmp_path / "out")
    assert len(more["conv3_3-avg"]) == 10 and not failures(tmp_path / "out")


def test_a_set_whose_images_are_all_too_large_has_no_rows(weights: Weights, tmp_path: Path) -> None:
    draw(tmp_path / "photos/large.png", 0, width=1500, height=1500)
    manifest = make_manifest(tmp_path / "photos")
    codes = extract(manifest, weights, make_params(memory_mb=TIGHT_MB), tmp_path / "out")
    assert {len(one) for one in codes.values()} == {0}
    assert "1500 x 1500 pixels: needs 2" in failures(tmp_path / "out")["large.png"]


def test_a_batch_that_does_not_fit_is_refused_before_any_work(photos: Path, weights: Weights, tmp_path: Path) -> None:
    params = make_params(memory_mb=TIGHT_MB, batch_size=256)
    with pytest.raises(
        UserError, match=r"a batch of 256 images needs .*codes.compute.memory_mb \(16\); allowed: .*batch_size"
    ):
        extract(make_manifest(photos), weights, params, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("view", [{}, WHOLE], ids=str)
def test_who_stops_early_leaves_nobody_waiting(photos: Path, weights: Weights, view: dict[str, Any]) -> None:
    specs, room = specs_of(weights, **view), Room(TIGHT_MB)
    sources = [loading.Source((path,), None, 10**7) for path in sorted(photos.iterdir()) * 3]
    before = threading.active_count()
    batches = loading.batches(sources, specs, room=room, threads=4)
    next(batches)
    batches.close()  # waits for its threads
    assert threading.active_count() == before
    with room.hold(room.total_bytes):
        pass


def test_a_query_that_needs_too_much_says_so(photos: Path, weights: Weights) -> None:
    draw(photos / "large.png", 0, width=1500, height=1500)
    embedder = Embedder(weights, specs_of(weights)[0].as_json(), room=Room(TIGHT_MB))
    with pytest.raises(ImagesError, match=r"1 of 2 images .*large.png \(1500 x 1500 pixels: needs"):
        embedder([photos / "1.png", photos / "large.png"])
    assert len(embedder([photos / "1.png", (photos / "2.png").read_bytes()])) == 2


def test_a_whole_image_beyond_the_gpus_memory_is_listed_too(
    photos: Path, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(photos / "wide.png", 11, width=300, height=60)
    launch = Forward.launch

    def small(self: Forward, batch: loading.Batch) -> Any:
        if batch.images[0].shape[4] > 64:
            raise TooLargeError("one input does not fit the GPU's memory")
        return launch(self, batch)

    monkeypatch.setattr(Forward, "launch", small)
    codes = extract(make_manifest(photos), weights, make_params(**WHOLE), tmp_path / "out")["conv3_3-avg"]
    assert len(codes) == 9 and np.isfinite(codes.rows(slice(None))).all()
    assert failures(tmp_path / "out") == {"wide.png": "one input does not fit the GPU's memory"}
