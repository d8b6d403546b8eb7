"""Every index through one contract, against a numpy popcount."""

from __future__ import annotations

import logging
import threading
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from pipeline.base.errors import UserError
from pipeline.search import INDEXES, PackedIndex, make

SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {},
    "multihash": {"tables": 4, "table_bits": 8, "flips": 1},
    "ivf": {"lists": 8, "probes": 4},
    "hnsw": {"links": 12, "build_width": 60, "search_width": 80},
}
NBITS, N = 32, 500


def collection(n: int = N, seed: int = 0, nbits: int = NBITS) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Rows in clusters with many ties and copies, under ids whose order is not theirs."""
    rng = np.random.default_rng(seed)
    centres = rng.random((10, nbits)) < 0.5
    bits = centres[rng.integers(0, 10, n)] ^ (rng.random((n, nbits)) < 0.06)
    names = np.array([f"{v:06x}-{seed}" for v in rng.permutation(n)])
    return np.packbits(bits, axis=1), names


def oracle(query: NDArray[np.uint8], packed: NDArray[np.uint8], ids: NDArray[np.str_]) -> list[tuple[int, str]]:
    """Every row as (distance, id), sorted: the definition of the order."""
    distances = (np.unpackbits(query) != np.unpackbits(packed, axis=1)).sum(axis=1)
    return sorted((int(d), str(i)) for d, i in zip(distances, ids, strict=True))


def pairs(distances: NDArray[Any], ids: NDArray[np.str_]) -> list[tuple[int, str]]:
    return [(int(d), str(i)) for d, i in zip(distances, ids, strict=True)]


@pytest.fixture(params=INDEXES)
def index(request: pytest.FixtureRequest) -> PackedIndex:
    return make(request.param, NBITS, **SETTINGS[request.param])


def test_settings_cover_the_registry() -> None:
    assert SETTINGS.keys() == INDEXES.keys()


def test_neighbours(index: PackedIndex) -> None:
    packed, ids = collection()
    index.add(packed, ids)
    assert len(index) == N
    assert index.ids.tolist() == sorted(ids)
    queries, k = packed[:40], 10
    distances, found = index.search(queries, k)
    assert distances.shape == found.shape == (40, k)
    assert distances.dtype == np.int32
    hits = 0
    for i, query in enumerate(queries):
        truth = oracle(query, packed, ids)
        mine = pairs(distances[i], found[i])
        assert mine == sorted(set(mine))  # in (distance, id) order, each once
        assert set(mine) <= set(truth)  # whatever is found is at its true distance
        if index.can.exact:
            assert mine == truth[:k]
        hits += sum(d <= truth[k - 1][0] for d, _ in mine)
    assert hits >= 0.9 * 40 * k


def test_one_row_is_its_row_of_a_batch_and_again(index: PackedIndex) -> None:
    packed, ids = collection()
    index.add(packed, ids)
    twin = make(index.name, NBITS, **index.settings())
    twin.add(packed, ids)
    batch = index.search(packed[:9], 7)
    for i in range(9):
        alone = index.search(packed[i : i + 1], 7)
        assert alone[0][0].tolist() == batch[0][i].tolist()
        assert alone[1][0].tolist() == batch[1][i].tolist()
    again = twin.search(packed[:9], 7)
    assert again[0].tolist() == batch[0].tolist()
    assert again[1].tolist() == batch[1].tolist()


def test_k_up_to_the_collection(index: PackedIndex) -> None:
    packed, ids = collection(60)
    index.add(packed, ids)
    distances, found = index.search(packed[:3], 60)
    for i in range(3):
        assert pairs(distances[i], found[i]) == oracle(packed[i], packed, ids)


@pytest.mark.parametrize("radius", [0, 2, 5, 9, 32])
def test_radius(index: PackedIndex, radius: int) -> None:
    packed, ids = collection(300)
    index.add(packed, ids)
    for query, (distances, found) in zip(packed[:12], index.range_search(packed[:12], radius), strict=True):
        assert pairs(distances, found) == [p for p in oracle(query, packed, ids) if p[0] <= radius]


def test_add_and_remove_are_as_if_it_had_been_so_from_the_start(
    index: PackedIndex, caplog: pytest.LogCaptureFixture
) -> None:
    packed, ids = collection(700)
    with caplog.at_level(logging.INFO, logger="pipeline.search"):
        index.add(packed[:400], ids[:400])
        assert not caplog.records
        added = index.add(packed[400:], ids[400:])
        removed = index.remove(ids[100:300])
    assert (added.rows, removed.rows) == (300, 200)
    # What is not done in place is done by a rebuild that says so.
    assert removed.rebuilt == (index.can.remove == "rebuild")
    for change in (added, removed):
        assert change.rebuilt == bool(change.note) == (change.note in caplog.messages)
    kept = np.r_[0:100, 300:700]
    assert index.ids.tolist() == sorted(ids[kept])
    distances, found = index.search(packed[:60], 5)
    near = 0
    for i in range(60):
        truth = oracle(packed[i], packed[kept], ids[kept])
        mine = pairs(distances[i], found[i])
        assert set(mine) <= set(truth)
        near += sum(d <= truth[4][0] for d, _ in mine)
        assert not index.can.exact or mine == truth[:5]
    assert near >= 0.9 * 300
    # Ids that went may come again, and everything may go.
    index.add(packed[100:300], ids[100:300])
    assert index.search(packed[150:151], 1)[0][0, 0] == 0
    index.remove(ids)
    assert len(index) == 0
    index.add(packed[:50], ids[:50])
    assert index.search(packed[:1], 1)[0][0, 0] == 0


def test_wrong_input_is_refused_and_changes_nothing(index: PackedIndex) -> None:
    packed, ids = collection(80)
    with pytest.raises(UserError, match="empty"):
        index.search(packed[:1], 1)
    with pytest.raises(UserError, match="empty"):
        index.range_search(packed[:1], 1)
    index.add(packed, ids)
    for bad in (packed[:, :3], np.hstack([packed, packed]), packed.astype(np.int64), packed[0]):
        with pytest.raises(UserError, match="bits"):
            index.search(bad, 1)
        with pytest.raises(UserError, match="bits"):
            index.add(bad, ids)
    for k in (0, -1):
        with pytest.raises(UserError, match=f"k = {k}; allowed: 1 or more"):
            index.search(packed[:1], k)
    for radius in (-1, NBITS + 1):
        with pytest.raises(UserError, match="radius"):
            index.range_search(packed[:1], radius)
    with pytest.raises(UserError, match="already"):
        index.add(packed[:1], ids[:1])
    with pytest.raises(UserError, match="more than once"):
        index.add(packed[:2], np.array(["new", "new"]))
    with pytest.raises(UserError, match="one id a row"):
        index.add(packed[:2], np.array(["new"]))
    with pytest.raises(UserError, match="one string a row"):
        index.add(packed[:1], np.array([3]))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not in the index"):
        index.remove(np.array([ids[0], "nobody"]))
    assert len(index) == 80


def test_k_is_at_most_k(index: PackedIndex) -> None:
    packed, ids = collection(80)
    index.add(packed, ids)
    for k in (81, 5000):
        distances, found = index.search(packed[:3], k)
        for i in range(3):
            assert pairs(distances[i], found[i]) == oracle(packed[i], packed, ids)


@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("nbits", [0, -8, 12])
def test_bits_must_fill_bytes(name: str, nbits: int) -> None:
    with pytest.raises(UserError, match="whole bytes"):
        make(name, nbits, **SETTINGS[name])


def test_unknown_names_and_settings() -> None:
    with pytest.raises(UserError, match="exact, multihash, ivf, hnsw"):
        make("faster", 64)
    with pytest.raises(UserError, match="lists, probes"):
        make("ivf", 64, cells=3)
    for name, settings_ in (
        ("multihash", {"tables": 5, "table_bits": 16, "flips": 0}),
        ("ivf", {"lists": 4, "probes": 5}),
        ("hnsw", {"links": 1, "build_width": 10, "search_width": 10}),
    ):
        with pytest.raises(UserError):
            make(name, 64, **settings_)


def test_few_rows_make_no_library_speak(index: PackedIndex, capfd: pytest.CaptureFixture[str]) -> None:
    index.add(*collection(10))
    assert len(index) == 10
    assert capfd.readouterr() == ("", "")


def test_a_search_during_adds_sees_one_collection(index: PackedIndex) -> None:
    # Generation g holds g + 1 copies of each of 20 codes: a search must find one whole generation.
    packed, _ = collection(20, seed=3)
    packed = np.unique(packed, axis=0)
    m = len(packed)

    def names(generation: int) -> NDArray[np.str_]:
        # Later generations sort before earlier ones: every add moves every row.
        return np.array([f"{99 - generation:02d}-{i:02d}" for i in range(m)])

    index.add(packed, names(0))
    stop, wrong = threading.Event(), []

    def searching() -> None:
        while not stop.is_set():
            for query, (distances, found) in enumerate(index.range_search(packed, 0)):
                generations = sorted(99 - int(i[:2]) for i in found)
                if generations != list(range(len(found))) or {int(i[3:]) for i in found} != {query} or distances.any():
                    wrong.append(found.tolist())
            distances, found = index.search(packed, 1)
            if distances.any() or [int(i[3:]) for i in found[:, 0]] != list(range(m)):
                wrong.append(found.tolist())

    threads = [threading.Thread(target=searching) for _ in range(2)]
    for t in threads:
        t.start()
    for generation in range(1, 12):
        index.add(packed, names(generation))
    stop.set()
    for t in threads:
        t.join()
    assert not wrong


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_exact_is_the_definition(data: st.DataObject) -> None:
    n, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    # Few distinct values: ties everywhere, at the cut too.
    row = st.lists(st.sampled_from([0, 1, 3, 255]), min_size=width, max_size=width)
    packed = np.array(data.draw(st.lists(row, min_size=n, max_size=n)), np.uint8)
    ids = np.array(data.draw(st.lists(st.text("ab-Äß日", min_size=1, max_size=4), min_size=n, max_size=n, unique=True)))
    k = data.draw(st.integers(1, n))
    index = make("exact", width * 8)
    index.add(packed, ids)
    query = np.array([data.draw(row)], np.uint8)
    distances, found = index.search(query, k)
    assert pairs(distances[0], found[0]) == oracle(query[0], packed, ids)[:k]


def lowest_at_the_cut(distances: NDArray[Any], ids: NDArray[np.str_], k: int) -> list[tuple[int, str]]:
    """Of all rows and their distances by another library, the first k by (distance, id)."""
    return sorted(pairs(distances, ids))[:k]


@pytest.mark.parametrize("k", [1, 10, 137])
def test_exact_is_faisss_flat_index_and_scikit_learns_brute_force(k: int) -> None:
    """The collection has copies and many ties, also at the cut."""
    packed, ids = collection()
    queries = np.concatenate([packed[:20], collection(20, seed=4)[0]])
    index = make("exact", NBITS)
    index.add(packed, ids)
    distances, found = index.search(queries, k)
    flat = faiss.IndexBinaryFlat(NBITS)
    flat.add(packed)
    theirs, rows = flat.search(queries, N)
    np.testing.assert_array_equal(distances, theirs[:, :k])
    bits, query_bits = np.unpackbits(packed, axis=1), np.unpackbits(queries, axis=1)
    brute = NearestNeighbors(metric="hamming", algorithm="brute").fit(bits)
    shares, places = brute.kneighbors(query_bits, N)
    for i in range(len(queries)):
        mine = pairs(distances[i], found[i])
        assert mine == lowest_at_the_cut(theirs[i], ids[rows[i]], k)
        assert mine == lowest_at_the_cut((shares[i] * NBITS).round().astype(int), ids[places[i]], k)


@pytest.mark.parametrize("radius", [0, 3, 12])
def test_a_radius_is_faisss_flat_indexs(index: PackedIndex, radius: int) -> None:
    packed, ids = collection()
    index.add(packed, ids)
    flat = faiss.IndexBinaryFlat(NBITS)
    flat.add(packed)
    limits, distances, rows = flat.range_search(packed[:30], radius + 1)  # which leaves its radius out
    for i, found in enumerate(index.range_search(packed[:30], radius)):
        part = slice(limits[i], limits[i + 1])
        assert pairs(*found) == sorted(pairs(distances[part], ids[rows[part]]))
