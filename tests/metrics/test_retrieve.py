"""Tie-aware metrics against their definitions: every order of every tie, written out."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve

from pipeline.base.errors import UserError
from pipeline.metrics import retrieve
from pipeline.metrics.retrieve import TieGroups


def one(*groups: tuple[int, int], total: int | None = None) -> TieGroups:
    """One query's tie groups, as (count, relevant)."""
    counts, relevant = (np.array([v], np.int64) for v in zip(*groups, strict=True))
    return TieGroups(counts, relevant, np.array([relevant.sum() if total is None else total]))


def ap(hits: tuple[int, ...], k: int, denominator: str, total: int) -> float:
    """The definition, on one order without ties."""
    top = hits[:k]
    score = sum(sum(top[: i + 1]) / (i + 1) for i, hit in enumerate(top) if hit)
    return score / max(1, sum(top) if denominator == "hits" else min(total, k))


def orders(groups: TieGroups) -> list[tuple[int, ...]]:
    """Every order of the items (relevant = 1) that the ties allow, each item moved as itself: all equally likely."""
    whole: list[tuple[int, ...]] = [()]
    for c, r in zip(groups.counts[0], groups.relevant[0], strict=True):
        whole = [head + tail for head in whole for tail in permutations([1] * r + [0] * (c - r))]
    return whole


def test_worked_by_hand() -> None:
    # Two tied items, one relevant: AP is 1 or 1/2.
    assert retrieve.average_precision(one((2, 1))) == pytest.approx([0.75])
    # k = 1 cuts the tie: the hit is inside half of the time, and then AP@1 is 1.
    assert retrieve.average_precision(one((2, 1)), 1) == pytest.approx([0.5])
    # A hit, then a tie of two with one hit, cut at 2. Top 2 = hit, hit: 1; hit, miss: 1/1 (hits) or 1/2 (min(R, k)).
    assert retrieve.average_precision(one((1, 1), (2, 1)), 2) == pytest.approx([1.0])
    assert retrieve.average_precision(one((1, 1), (2, 1)), 2, denominator="possible") == pytest.approx([0.75])
    # A miss, then that tie, cut at 2: precision(2) = 1/2 with probability 1/2.
    assert retrieve.average_precision(one((1, 0), (2, 1)), 2) == pytest.approx([0.25])
    assert retrieve.average_precision(one((3, 0))) == [0.0]


tie_groups = st.lists(
    st.integers(0, 4).flatmap(lambda c: st.tuples(st.just(c), st.integers(0, c))), min_size=1, max_size=4
).filter(lambda groups: 1 <= sum(c for c, _ in groups) <= 7)


@settings(max_examples=120, deadline=None)
@given(tie_groups, st.data())
def test_every_metric_is_the_mean_over_all_orders(shape: list[tuple[int, int]], data: st.DataObject) -> None:
    n = sum(c for c, _ in shape)
    k = data.draw(st.integers(1, n))
    # Relevant items that the ranking does not reach count in R.
    total = sum(r for _, r in shape) + data.draw(st.integers(0, 2))
    groups = one(*shape, total=total)
    every = orders(groups)
    for denominator in ("hits", "possible"):
        expected = np.mean([ap(order, k, denominator, total) for order in every])
        assert retrieve.average_precision(groups, k, denominator=denominator) == pytest.approx([expected], abs=1e-12)
    assert retrieve.precision_at(groups, k) == pytest.approx([np.mean([sum(o[:k]) / k for o in every])])
    assert retrieve.recall_at(groups, k) == pytest.approx([np.mean([sum(o[:k]) / max(total, 1) for o in every])])


def test_queries_together_are_queries_alone() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 40, (30, 17))
    counts[:, 0] += 5
    relevant = rng.binomial(counts, 0.3)
    groups = TieGroups(counts, relevant, relevant.sum(axis=1))
    k = int(counts.sum(axis=1).min())
    for at in (1, 3, k // 2, k, None):
        alone = [
            retrieve.average_precision(TieGroups(counts[[i]], relevant[[i]], relevant[[i]].sum(axis=1)), at)[0]
            for i in range(30)
        ]
        assert retrieve.average_precision(groups, at) == pytest.approx(alone, rel=1e-12)


def test_one_large_tie_scores_chance() -> None:
    # 100,000 items at one distance, a tenth relevant: every prefix has precision .1 in expectation.
    groups = one((100_000, 10_000))
    assert retrieve.precision_at(groups, 1000) == pytest.approx([0.1])
    sampled = retrieve.average_precision(groups, 1000)[0]
    rng = np.random.default_rng(1)
    draws = [ap(tuple(rng.permutation(100_000)[:1000] < 10_000), 1000, "hits", 10_000) for _ in range(60)]
    assert sampled == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / np.sqrt(60))


@pytest.mark.parametrize("nbits", [8, 24, 64, 72, 264, 520])
def test_hamming_groups_against_bits(nbits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieve, "_BLOCK_BYTES", 20_000)  # many blocks of both
    rng = np.random.default_rng(nbits)
    bits = rng.random((90, nbits)) < 0.5
    packed = np.packbits(bits, axis=1)
    labels = rng.integers(0, 5, 90)
    self_rows = np.r_[np.arange(30), np.full(10, -1)]
    queries = np.r_[packed[:30], np.packbits(rng.random((10, nbits)) < 0.5, axis=1)]
    query_labels = rng.integers(0, 6, 40)
    groups = retrieve.hamming_groups(queries, packed, query_labels, labels, self_rows=self_rows)
    neighbours = np.stack([rng.permutation(np.delete(np.arange(90), i if i < 30 else []))[:7] for i in range(40)])
    near = retrieve.neighbour_groups(queries, packed, neighbours, self_rows=self_rows)
    for i in range(40):
        distances = (np.unpackbits(queries[i]) != bits).sum(axis=1)
        others = np.arange(90) != self_rows[i]
        for d in range(nbits + 1):
            at = others & (distances == d)
            assert groups.counts[i, d] == near.counts[i, d] == at.sum()
            assert groups.relevant[i, d] == (at & (labels == query_labels[i])).sum()
            assert near.relevant[i, d] == at[neighbours[i]].sum()
        assert groups.total_relevant[i] == (others & (labels == query_labels[i])).sum()
        assert near.total_relevant[i] == 7


def test_distance_groups_agree_with_hamming_groups() -> None:
    rng = np.random.default_rng(3)
    packed = rng.integers(0, 256, (80, 2), dtype=np.uint8)
    labels = rng.integers(0, 3, 80)
    self_rows = np.arange(80)
    distances = np.bitwise_count(packed[:, None] ^ packed).sum(axis=2).astype(np.float32)
    np.fill_diagonal(distances, np.inf)
    exact = retrieve.hamming_groups(packed, packed, labels, labels, self_rows=self_rows)
    for k in (1, 10, 79):
        floats = retrieve.distance_groups(distances, labels[:, None] == labels, k=k)
        for denominator in ("hits", "possible"):
            a, b = (retrieve.average_precision(g, k, denominator=denominator) for g in (exact, floats))
            assert a == pytest.approx(b, rel=1e-12)
    everything = retrieve.distance_groups(distances, labels[:, None] == labels)
    assert retrieve.average_precision(everything) == pytest.approx(retrieve.average_precision(exact), rel=1e-12)


def test_radius_and_curve() -> None:
    counts = np.array([[0, 2, 0, 8], [0, 0, 0, 10]])
    relevant = np.array([[0, 1, 0, 3], [0, 0, 0, 5]])
    groups = TieGroups(counts, relevant, relevant.sum(axis=1))
    assert retrieve.precision_within(groups, 0).tolist() == [0.0, 0.0]
    assert retrieve.precision_within(groups, 2).tolist() == [0.5, 0.0]
    assert retrieve.precision_within(groups, 3).tolist() == [0.4, 0.5]
    precision, recall = retrieve.precision_recall_curve(groups)
    assert precision == pytest.approx([1 / 2, 1 / 2, 9 / 20])
    assert recall == pytest.approx([1 / 9, 1 / 9, 1.0])


def test_wrong_input_is_refused() -> None:
    packed = np.zeros((4, 2), np.uint8)
    labels = np.zeros(4, np.int64)
    with pytest.raises(UserError, match="16 bits"):
        retrieve.hamming_groups(packed, packed[:, :1], labels, labels)
    with pytest.raises(UserError, match="unlabelled"):
        retrieve.hamming_groups(packed, packed, labels - 1, labels)
    with pytest.raises(UserError, match="at least one"):
        retrieve.hamming_groups(packed, packed[:0], labels, labels[:0])
    groups = retrieve.hamming_groups(packed, packed, labels, labels)
    for k in (0, 5):
        with pytest.raises(UserError, match=f"k = {k}"):
            retrieve.average_precision(groups, k)
    with pytest.raises(UserError, match="own"):
        retrieve.neighbour_groups(packed, packed, np.arange(4)[:, None], self_rows=np.arange(4))


# against trec_eval and scikit-learn

K = (1, 3, 8)


def by_trec_eval(ranked: list[int]) -> dict[str, float]:
    """trec_eval's figures of one ranking without ties, relevant = 1."""
    names = [f"d{i:03d}" for i in range(len(ranked))]
    measures = {"map", *(f"{m}.{k}" for m in ("map_cut", "P", "recall") for k in K)}
    judged = {"q": dict(zip(names, ranked, strict=True))}
    scores = {"q": {name: float(len(ranked) - i) for i, name in enumerate(names)}}
    found: dict[str, float] = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(scores)["q"]
    return found


def ours(groups: TieGroups) -> dict[str, float]:
    """The same figures. trec_eval divides by all that is relevant; `possible` and `hits` by fewer."""
    total = int(groups.total_relevant[0])
    found = {"map": retrieve.average_precision(groups)[0]}
    for k in K:
        cut = retrieve.average_precision(groups, k, denominator="possible")[0] * min(total, k) / total
        found |= {f"map_cut_{k}": cut, f"P_{k}": retrieve.precision_at(groups, k)[0]}
        found[f"recall_{k}"] = retrieve.recall_at(groups, k)[0]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_figures_without_ties_are_those_of_trec_eval_and_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances, relevant = rng.permutation(20) / 7, rng.random(20) < 0.4
    groups = retrieve.distance_groups(distances[None], relevant[None])
    ranked = relevant[np.argsort(distances)].astype(int)
    assert ours(groups) == pytest.approx(by_trec_eval(ranked.tolist()))
    assert retrieve.average_precision(groups)[0] == pytest.approx(average_precision_score(relevant, -distances))
    for k in K:
        if ranked[:k].any():  # over the hits: the first k are the whole collection
            expected = average_precision_score(ranked[:k], -np.arange(k))
            assert retrieve.average_precision(groups, k)[0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_figures_with_ties_are_the_mean_of_trec_evals_over_every_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances, relevant = rng.integers(0, 4, 8).astype(float), rng.permutation([True] * 3 + [False] * 5)
    orders = [order for order in permutations(range(8)) if (np.diff(distances[list(order)]) >= 0).all()]
    every = [by_trec_eval(relevant[list(order)].astype(int).tolist()) for order in orders]
    expected = {name: np.mean([one[name] for one in every]) for name in every[0]}
    assert ours(retrieve.distance_groups(distances[None], relevant[None])) == pytest.approx(expected)


def test_the_curve_is_scikit_learns_which_takes_ties_together() -> None:
    rng = np.random.default_rng(0)
    distances, relevant = rng.integers(0, 9, 200), rng.random(200) < 0.3
    counts = np.bincount(distances, minlength=12)[None]
    hits = np.bincount(distances, weights=relevant, minlength=12).astype(np.int64)[None]
    precision, recall = retrieve.precision_recall_curve(TieGroups(counts, hits, hits.sum(axis=1)))
    theirs = precision_recall_curve(relevant, -distances)  # from the last radius down, and a point without answers
    found = dict.fromkeys(zip(precision.round(12), recall.round(12), strict=True))
    assert list(found) == list(zip(theirs[0][-2::-1].round(12), theirs[1][-2::-1].round(12), strict=True))
