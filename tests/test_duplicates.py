"""Groups of near-identical images: against all pairs by definition, and no more work than copies are worth."""

from __future__ import annotations

import importlib
import time
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.collection import Collection, duplicates
from pipeline.collection.duplicates import PROPOSED_WITHIN
from pipeline.collection.methods import Method

Packed = NDArray[np.uint8]
module = importlib.import_module("pipeline.collection.duplicates")  # whose name is its function's too


def bits(rng: np.random.Generator, rows: int, nbits: int) -> Packed:
    return np.packbits(rng.random((rows, nbits)) < 0.3, axis=1)


def flipped(rng: np.random.Generator, packed: Packed, share: float) -> Packed:
    return packed ^ np.packbits(rng.random((len(packed), packed.shape[1] * 8)) < share, axis=1)


def photos(short: Packed, long: Packed) -> Collection:
    """What `duplicates` asks of a collection whose short code is lsh and whose long one is topk."""
    methods = [Method(n, "hamming", n, p.shape[1] * 8, {n: p.shape[1]}) for n, p in (("topk", long), ("lsh", short))]
    packed = {"topk": long, "lsh": short}

    class Photos(SimpleNamespace):
        def __len__(self) -> int:
            return len(short)

    made_by = {"short": {"hasher": "lsh"}, "long": {"topk": {"params": {"k": 32}}}}
    fake = Photos(methods={m.name: m for m in methods}, packed=packed.__getitem__, made_by=made_by)
    return cast(Collection, fake)


def by_definition(near: NDArray[np.bool_]) -> list[list[int]]:
    number = np.arange(len(near))
    while True:  # the lowest row that can be reached
        lower = np.array([number[row].min() for row in near])
        if (lower == number).all():
            break
        number = lower
    groups = [np.flatnonzero(number == g).tolist() for g in np.unique(number)]
    return sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0]))


def apart(packed: Packed) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.bitwise_count(packed[:, None] ^ packed).sum(axis=2, dtype=np.int64)
    return found


@pytest.mark.parametrize("large", [1000, 3])
@pytest.mark.parametrize("compared", [1 << 16, 5])
@pytest.mark.parametrize("seed", range(4))
def test_groups_of_copies_and_near_copies_are_those_of_all_pairs(
    seed: int, compared: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COMPARED", compared)
    monkeypatch.setattr(module, "_PROPOSED", 100 * compared)
    monkeypatch.setattr(module, "_LARGE", large)
    monkeypatch.setattr(module, "_LARGE_SHARE", 0.0)
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 25, 120)  # copies in any order
    short, long = bits(rng, 25, 64)[which], bits(rng, 25, 256)[which]
    changed = rng.random(120) < 0.5
    short[changed], long[changed] = flipped(rng, short[changed], 0.04), flipped(rng, long[changed], 0.01)
    long[:3] = long[3]  # equal long codes alone are no pair
    for radius in (0, 2, 5, 30, 64):
        assert duplicates(photos(short, long), method="lsh", radius=radius)[0] == by_definition(apart(short) <= radius)
        near = (apart(short) <= PROPOSED_WITHIN) & (apart(long) <= radius)
        assert duplicates(photos(short, long), radius=radius) == (by_definition(near), radius)


def test_many_copies_take_seconds() -> None:
    rng = np.random.default_rng(0)
    which = np.zeros(100_000, np.int64)
    which[::1000] = np.arange(100)
    found = photos(bits(rng, 100, 64)[which], bits(rng, 100, 256)[which])
    start = time.process_time()
    groups, _ = duplicates(found)
    assert [len(g) for g in groups] == [99_901]
    assert groups[0] == np.flatnonzero(which == 0).tolist()
    assert time.process_time() - start < 10


def test_memory_does_not_grow_with_the_pairs_of_near_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROPOSED", 1 << 16)
    rng = np.random.default_rng(0)
    short = flipped(rng, np.repeat(bits(rng, 1, 64), 1500, axis=0), 0.01)
    long = flipped(rng, np.repeat(bits(rng, 1, 256), 1500, axis=0), 0.01)
    assert len(np.unique(long, axis=0)) > 1000
    tracemalloc.start()
    groups, _ = duplicates(photos(short, long), radius=40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(groups[0]) > 1400
    assert peak < 20 * 1024 * 1024  # its million pairs would take 16 MB, with ids 300 MB


@pytest.mark.parametrize("rows", [0, 1])
def test_a_collection_without_pairs(rows: int) -> None:
    empty: Any = photos(np.zeros((rows, 8), np.uint8), np.zeros((rows, 32), np.uint8))
    assert duplicates(empty) == ([], 5)
