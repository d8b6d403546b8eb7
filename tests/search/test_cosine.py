"""Exact cosine against float64, and two-stage search against its second stage."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.base.errors import UserError
from pipeline.search import make
from pipeline.search.cosine import Cosine
from pipeline.search.rerank import TwoStage


def codes(n: int = 400, d: int = 33, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    x = np.maximum(np.random.default_rng(seed).normal(size=(n, d)), 0).astype(dtype)
    x[3] = 0
    x[n // 2 :] = x[: n - n // 2]  # exact copies: ties
    return x


def names(n: int) -> np.ndarray:
    return np.array([f"{i:05d}" for i in np.random.default_rng(9).permutation(n)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_against_the_definition(dtype: type) -> None:
    x, ids = codes(dtype=dtype), names(400)
    index = Cosine(x, ids)
    y = x.astype(np.float64)
    lengths = np.linalg.norm(y, axis=1)
    cosines = np.equal.outer(lengths == 0, lengths == 0) * (lengths == 0).astype(float)  # of two codes of zeros: 1
    np.divide(y @ y.T, np.outer(lengths, lengths), out=cosines, where=np.outer(lengths, lengths) > 0)
    truth = 1 - cosines
    distances, found = index.search(x[:50], 12)
    for i in range(50):
        row = dict(zip(ids, truth[i], strict=True))
        assert distances[i] == pytest.approx([row[f] for f in found[i]], abs=1e-6)
        assert distances[i] == pytest.approx(np.sort(truth[i])[:12], abs=1e-6)
        mine = list(zip(distances[i].tolist(), found[i].tolist(), strict=True))
        assert mine == sorted(set(mine))


def test_copies_tie_and_fall_to_the_lower_id() -> None:
    x, ids = codes(), names(400)
    distances, found = Cosine(x, ids).search(x[10:11], 2)
    assert distances[0, 0] == distances[0, 1]
    assert found[0].tolist() == sorted([ids[10], ids[210]])


def test_a_code_of_zeros_finds_itself_and_its_equals_and_nothing_else_near() -> None:
    x, ids = codes(), names(400)
    assert not x[3].any() and not x[203].any()
    index = Cosine(x, ids)
    distances, found = index.search(x[3:4], 400)
    assert distances[0].tolist() == [0, 0] + 398 * [1]
    assert found[0, :2].tolist() == sorted([ids[3], ids[203]])
    assert found[0, 2:].tolist() == sorted(set(ids) - {ids[3], ids[203]})
    others, found = index.search(x[10:11], 400)
    assert set(others[0][np.isin(found[0], [ids[3], ids[203]])]) == {1}
    rows = np.searchsorted(index.ids, ids[[3, 203, 10]])
    assert index.distances_to(x[3:4], rows[None]).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equal_codes_are_at_0_whatever_their_length(dtype: type) -> None:
    x = np.random.default_rng(3).integers(0, 400, (60, 70)).astype(dtype)
    index = Cosine(np.concatenate([x, 3 * x]), np.array([f"{i:03d}" for i in range(120)]))
    distances, rows = index.search_rows(x, 120)
    for i in range(60):
        assert sorted(rows[i, :2]) == [i, i + 60] and distances[i, :2].tolist() == [0, 0]
        place = dict(zip(rows[i].tolist(), distances[i].tolist(), strict=True))
        assert [place[j] for j in range(60)] == [place[j + 60] for j in range(60)]


def test_one_row_is_its_row_of_a_batch_whatever_the_collection() -> None:
    x, ids = codes(), names(400)
    whole, half = Cosine(x, ids), Cosine(x[:200], ids[:200])
    batch = whole.search(x[:30], 20)
    for i in range(30):
        assert [a[0].tolist() for a in whole.search(x[i : i + 1], 20)] == [a[i].tolist() for a in batch]
    seen = dict(zip(batch[1][5].tolist(), batch[0][5].tolist(), strict=True))
    for d, i in zip(*(a[0].tolist() for a in half.search(x[5:6], 20)), strict=True):
        assert seen.get(i, d) == d
    changed = Cosine(x[:100], ids[:100])
    changed.add(x[100:], ids[100:])
    changed.remove(ids[200:])
    assert changed.search(x[:9], 20)[1].tolist() == half.search(x[:9], 20)[1].tolist()


def test_wrong_input() -> None:
    x, ids = codes(), names(400)
    index = Cosine(x, ids)
    with pytest.raises(UserError, match="33"):
        index.search(x[:, :5], 1)
    with pytest.raises(UserError, match="k = 0"):
        index.search(x, 0)
    assert [a.tolist() for a in index.search(x[:3], 401)] == [a.tolist() for a in index.search(x[:3], 400)]
    with pytest.raises(UserError, match="NaN"):
        index.search(x * np.nan, 1)
    with pytest.raises(UserError, match="already"):
        index.add(x[:1], ids[:1])
    with pytest.raises(UserError, match="not in"):
        index.remove(np.array(["nobody"]))
    index.remove(ids)
    with pytest.raises(UserError, match="empty"):
        index.search(x, 1)


def test_two_stages() -> None:
    x, ids = codes(), names(400)
    short, long = (np.packbits(x @ np.random.default_rng(b).normal(size=(33, b)) > 0, axis=1) for b in (16, 256))
    first, second, floats = make("exact", 16), make("exact", 256), Cosine(x, ids)
    first.add(short, ids)
    second.add(long, ids)
    for scorer, queries in ((second, long[:20]), (floats, x[:20])):
        whole = TwoStage(first, scorer, shortlist=400).search(short[:20], queries, 15)
        alone = scorer.search(queries, 15)
        assert [a.tolist() for a in whole] == [a.tolist() for a in alone]
        beyond = TwoStage(first, scorer, shortlist=400).search(short[:2], queries[:2], 500)
        assert [a.tolist() for a in beyond] == [a.tolist() for a in scorer.search(queries[:2], 400)]
        distances, found = TwoStage(first, scorer, shortlist=40).search(short[:20], queries, 15)
        _, candidates = first.search(short[:20], 40)
        every = scorer.search(queries, 400)
        for i in range(20):
            listed = set(candidates[i].tolist())
            ranked = [(d, f) for d, f in zip(every[0][i].tolist(), every[1][i].tolist(), strict=True) if f in listed]
            assert list(zip(distances[i].tolist(), found[i].tolist(), strict=True)) == ranked[:15]
    stages = TwoStage(first, floats, shortlist=5)
    with pytest.raises(UserError, match="shortlist of 5"):
        stages.search(short[:1], x[:1], 6)
    first.remove(ids[:1])
    with pytest.raises(UserError, match="different ids"):
        stages.search(short[:1], x[:1], 2)


@pytest.mark.parametrize("k", [1, 12, 150])
def test_against_scikit_learns_brute_force_and_faisss_flat_index(k: int) -> None:
    """Every row has a copy. Products leave copies apart by rounding; what is no farther apart is ranked by id here."""
    x, ids = codes(), names(400)
    x[[3, 203]] = 1  # of zeros the libraries say other things
    distances, found = Cosine(x, ids).search(x[:40], k)
    wide = x.astype(np.float64)
    theirs, rows = NearestNeighbors(metric="cosine", algorithm="brute").fit(wide).kneighbors(wide[:40], 400)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(33)
    flat.add(unit)
    similar, _ = flat.search(unit[:40], k)
    np.testing.assert_allclose(distances, theirs[:, :k], atol=1e-6)
    np.testing.assert_allclose(distances, 1 - similar, atol=1e-6)
    for i in range(40):
        level = np.concatenate([[0], np.cumsum(np.diff(theirs[i]) > 1e-12)])
        ranked = sorted(zip(level.tolist(), ids[rows[i]].tolist(), strict=True))
        assert found[i].tolist() == [name for _, name in ranked[:k]]
