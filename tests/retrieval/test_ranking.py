"""Rankings by floats: ties are ties whatever the order of the database, and they are those of the index."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics.pairwise import cosine_distances

from pipeline.retrieval import ranking
from pipeline.retrieval.measures import by_class, by_neighbours, mean_average_precision
from pipeline.retrieval.ranking import Classes, FloatRanking, HammingRanking, Neighbours
from pipeline.search.cosine import Cosine

MAKERS = {"cosine": FloatRanking.cosine, "euclidean": FloatRanking.euclidean}


def copies(codes: int = 200, times: int = 5, d: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(queries, database of copies under labels of their own, labels of the database), the codes in [0, 1]."""
    rng = np.random.default_rng(seed)
    x = rng.random((codes, d)).astype(np.float32)
    return rng.random((40, d)).astype(np.float32), np.tile(x, (times, 1)), rng.integers(0, 2, codes * times)


@pytest.mark.parametrize("name", MAKERS)
def test_figures_do_not_depend_on_the_order_of_the_database(name: str) -> None:
    queries, database, labels = copies()
    wanted, none = np.arange(40) % 2, np.full(40, -1)
    found = []
    for order in (np.arange(1000), np.argsort(labels, kind="stable"), np.argsort(-labels, kind="stable")):
        made = MAKERS[name](queries, database[order], none)
        classes = Classes(wanted, labels[order])
        figures, curve = by_class(made, classes, k=3, radius=2)
        assert figures["map_at_k"] == mean_average_precision(made, classes, k=3)
        found.append((figures, curve.precision.tolist(), curve.recall.tolist()))
    assert found[1:] == found[:-1]


@pytest.mark.parametrize("name", MAKERS)
def test_equal_codes_are_one_tie_group(name: str) -> None:
    queries, database, labels = copies(codes=20)
    groups = MAKERS[name](queries, database, np.full(40, -1)).groups(slice(0, 40), Classes(labels[:40], labels))
    assert (groups.counts == 5).all() and groups.counts.shape == (40, 20)


@pytest.mark.parametrize("own", [False, True])
def test_the_ties_of_cosine_are_those_of_the_index(own: bool) -> None:
    _, database, labels = copies(codes=30, times=3, d=7)
    database[::17] = 0
    index = Cosine(database, np.array([f"{i:03d}" for i in range(90)]))
    places = np.arange(0, 90, 4)
    distances, rows = index.search_rows(database[places], 90)
    made = FloatRanking.cosine(database[places], database, places if own else np.full(len(places), -1))
    groups = made.groups(slice(0, len(places)), Classes(labels[places], labels))
    for i, place in enumerate(places):
        kept = distances[i][(rows[i] != place) | (not own)]
        _, counts = np.unique(kept, return_counts=True)
        assert groups.counts[i][groups.counts[i] > 0].tolist() == counts.tolist()


def test_a_code_of_zeros_is_a_tie_of_its_equals() -> None:
    database = np.zeros((5, 8), np.float16)
    database[3:, 0] = 1
    made = FloatRanking.cosine(database[:1], database, np.array([0]))
    groups = made.groups(slice(0, 1), Classes(np.array([0]), np.array([0, 0, 1, 1, 1])))
    assert groups.counts.tolist() == [[2, 2]] and groups.relevant.tolist() == [[1, 0]]


def test_bits_as_floats_rank_as_bits_do() -> None:
    rng = np.random.default_rng(2)
    bits = rng.random((70, 24)) < 0.4
    packed, values = np.packbits(bits, axis=1), bits.astype(np.float32)
    own, classes = np.arange(70), Classes(np.arange(70) % 3, np.arange(70) % 3)
    near = Neighbours(np.stack([np.delete(np.arange(70), i)[:4] for i in range(70)]))
    hamming, floats = HammingRanking(packed, packed, own), FloatRanking.euclidean(values, values, own)
    assert mean_average_precision(floats, classes, k=9) == mean_average_precision(hamming, classes, k=9)
    assert by_neighbours(floats, near, k=9)[0] == by_neighbours(hamming, near, k=9)[0]


def test_blocks_of_queries_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, database, labels = copies()
    made, classes = FloatRanking.cosine(queries, database, np.full(40, -1)), Classes(np.arange(40) % 2, labels)
    whole = by_class(made, classes, k=3, radius=2)[0]
    for name, most in (("_BLOCK_GROUPS", 7000), ("_BLOCK_VALUES", 48)):
        monkeypatch.setattr(ranking, name, most)
        assert len(list(made.blocks())) > 1
        assert by_class(made, classes, k=3, radius=2)[0] == whole
        monkeypatch.undo()


def test_map_by_cosine_is_trec_evals_on_scikit_learns_distances() -> None:
    rng = np.random.default_rng(5)
    queries, database = rng.random((12, 20)).astype(np.float32), rng.random((50, 20)).astype(np.float32)
    wanted, labels = np.arange(12) % 3, rng.integers(0, 3, 50)
    apart = cosine_distances(queries.astype(np.float64), database.astype(np.float64))
    assert np.diff(np.sort(apart, axis=1)).min() > 1e-6  # no ties, nor any for float32
    judged = {f"q{i}": {f"d{j}": int(labels[j] == wanted[i]) for j in range(50)} for i in range(12)}
    scores = {f"q{i}": {f"d{j}": float(-apart[i, j]) for j in range(50)} for i in range(12)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"map", "P.10"}).evaluate(scores)
    made = FloatRanking.cosine(queries, database, np.full(12, -1))
    figures, _ = by_class(made, Classes(wanted, labels), k=10, radius=2)
    assert figures["map_all"] == pytest.approx(np.mean([one["map"] for one in theirs.values()]))
    assert figures["precision_at_k"] == pytest.approx(np.mean([one["P_10"] for one in theirs.values()]))
