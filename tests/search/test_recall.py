"""Recall as an index measures it on its own rows, against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.search import INDEXES, make
from pipeline.search.recall import measured
from tests.search.test_contract import NBITS, SETTINGS, collection, oracle

POOR = {
    "multihash": {"tables": 1, "table_bits": 4, "flips": 0},
    "ivf": {"lists": 12, "probes": 1},
    "hnsw": {"links": 2, "build_width": 4, "search_width": 12},
}


@pytest.mark.parametrize("name", POOR)
def test_recall_is_the_share_of_places_with_a_row_as_near_as_the_true_tenth(name: str) -> None:
    packed, ids = np.random.default_rng(1).integers(0, 256, (500, NBITS // 8)).astype(np.uint8), collection()[1]
    index = make(name, NBITS, **POOR[name])
    index.add(packed, ids)
    hits = 0
    for query, own in zip(packed, ids.tolist(), strict=True):
        tenth = [d for d, i in oracle(query, packed, ids) if i != own][9]
        distances, found = index.search(query[None], 11)
        others = [d for d, i in zip(distances[0].tolist(), found[0].tolist(), strict=True) if i != own][:10]
        hits += sum(d <= tenth for d in others)
    found_recall = measured(index)
    assert found_recall.measured_queries == len(ids)
    assert found_recall.recall_at_10 == pytest.approx(hits / (10 * len(ids)))
    assert found_recall.recall_at_10 < 1
    assert measured(index) == found_recall


def test_an_exact_index_is_not_measured() -> None:
    index = make("exact", NBITS)
    index.add(*collection())
    assert measured(index).as_json() == {"recall_at_10": 1.0, "measured_queries": 0}


@pytest.mark.parametrize("name", POOR)
@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_of_few_rows_all_others_are_neighbours(name: str, rows: int) -> None:
    index = make(name, NBITS, **SETTINGS[name])
    index.add(*collection(rows) if rows else (np.zeros((0, 4), np.uint8), np.zeros(0, np.str_)))
    found = measured(index)
    assert found.recall_at_10 == 1
    assert found.measured_queries == (rows if rows > 1 else 0)


@pytest.mark.parametrize("name", POOR)
def test_many_copies_of_one_row(name: str) -> None:
    packed, ids = np.zeros((50, 4), np.uint8), np.char.zfill(np.arange(50).astype(str), 2)
    index = make(name, NBITS, **SETTINGS[name])
    index.add(packed, ids)
    assert measured(index).recall_at_10 == 1


@pytest.mark.parametrize("name", INDEXES)
def test_a_restored_index_is_built_when_it_is_asked(name: str) -> None:
    packed, ids = collection()
    order = np.argsort(ids)
    first = make(name, NBITS, **SETTINGS[name])
    first.add(packed[order], ids[order])
    again = type(first).restored(NBITS, first.settings(), ids[order], packed[order])
    assert not again.state.answering.is_made
    assert [rows.tolist() for rows in again.rows_within(packed[:5], 20)] == [
        rows.tolist() for rows in first.rows_within(packed[:5], 20)
    ]
    # Radius 20 is beyond what hash tables are sure of: a scan, which asks nothing of what is built.
    assert not again.state.answering.is_made
    assert not again.add(np.zeros((1, 4), np.uint8), np.array(["zz"])).rebuilt
    assert not again.remove(np.array(["zz"])).rebuilt
    assert not again.state.answering.is_made
    for mine, theirs in zip(again.search(packed[:40], 10), first.search(packed[:40], 10), strict=True):
        assert mine.tolist() == theirs.tolist()
