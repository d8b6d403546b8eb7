"""Nearest neighbours by definition: order, ties and votes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier

from pipeline.base.errors import UserError
from pipeline.heads.base import Targets
from pipeline.heads.knn import Knn
from pipeline.heads.neighbours import Neighbours, in_order, unit_rows
from pipeline.heads.scaling import Scaling
from tests.heads.world import blobs, rows


@given(arrays(np.float64, (3, 9), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.integers(1, 9))
def test_in_order_is_a_stable_sort(similar: np.ndarray, k: int) -> None:
    expected = [sorted(range(9), key=lambda j, row=row: (-row[j], j))[:k] for row in similar]
    assert in_order(similar, k).tolist() == expected


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize(("n", "d", "classes"), [(80, 12, 3), (60, 300, 2), (150, 40, 5)])
def test_shares_are_those_of_scikit_learn(k: int, n: int, d: int, classes: int) -> None:
    raw, y = blobs(n, d, classes, apart=0.4)
    fresh, _ = blobs(40, d, classes, seed=5, apart=0.4)
    held = rows(raw, kind="none")
    oracle = KNeighborsClassifier(k, metric="cosine").fit(raw, y).predict_proba(fresh)
    ours = Knn.fit(held, Targets(y, classes), [k], seed=0)[0].scores(fresh)
    np.testing.assert_allclose(ours, oracle, atol=6e-4)


@pytest.mark.parametrize("k", [4, 9])
def test_balanced_shares_are_those_of_scikit_learn_with_such_weights(k: int) -> None:
    raw, _ = blobs(90, 12, 3, apart=0.4)
    y = np.repeat([0, 1, 2], [60, 20, 10])
    fresh, _ = blobs(40, 12, 3, seed=5, apart=0.4)
    targets = Targets(y, 3, True)
    oracle = KNeighborsClassifier(k, metric="cosine").fit(raw, y).predict_proba(fresh) * targets.class_weights()
    ours = Knn.fit(rows(raw, kind="none"), targets, [k], seed=0)[0].scores(fresh)
    np.testing.assert_allclose(ours, oracle / oracle.sum(axis=1, keepdims=True), atol=6e-4)


@pytest.mark.parametrize("d", [16, 700])
@pytest.mark.parametrize("scaling", ["l2", "standardise", "none"])
def test_of_equal_codes_the_earlier_row_is_nearer(d: int, scaling: str) -> None:
    generator = np.random.default_rng(d)
    kinds = np.maximum(generator.standard_normal((40, d)), 0).astype(np.float16)
    raw = kinds[generator.permutation(np.repeat(np.arange(40), 5))]
    fitted = Scaling.fit(scaling, [raw])
    units = unit_rows(fitted.apply(raw))
    fresh = np.concatenate([kinds[:10], np.maximum(generator.standard_normal((30, d)), 0).astype(np.float16)])
    queries = unit_rows(fitted.apply(fresh))
    far = cdist(queries.astype(np.float64), units.astype(np.float64), "cosine").round(10)
    for k in (1, 3, 7, 200):
        expected = np.array([np.lexsort((np.arange(200), row))[:k] for row in far])
        np.testing.assert_array_equal(Neighbours(units).nearest(queries, k), expected)


def test_a_row_alone_gets_the_answer_that_it_gets_in_a_batch() -> None:
    generator = np.random.default_rng(3)
    # Permutations of the same values: nearly equal cosines, which a product in float32 tells apart at will.
    raw = np.stack([generator.permutation(np.arange(1, 65)) for _ in range(50)]).astype(np.float32)
    y = np.arange(50)
    head = Knn.fit(rows(raw), Targets(y, 50), [3], seed=0)[0]
    fresh = np.concatenate([np.ones((5, 64), np.float32), raw[:20] + raw[20:40]])
    scaled = rows(raw).scaling.apply(fresh)
    every = head.scores(scaled)
    for i in range(len(fresh)):
        np.testing.assert_array_equal(head.scores(rows(raw).scaling.apply(fresh[i : i + 1]))[0], every[i])


def test_a_row_of_zeros_finds_its_like() -> None:
    train = np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float32)
    found = Neighbours(train).nearest(np.array([[0, 0], [0, 1]], dtype=np.float32), 3)
    assert found.tolist() == [[1, 0, 2], [2, 0, 1]]


def test_equal_votes_go_to_the_nearer_class() -> None:
    train = np.array([[1, 0], [0.9, 0.1], [0, 1]], dtype=np.float32)
    held = rows(train, kind="none")
    head = Knn.fit(held, Targets(np.array([1, 2, 0]), 3), [3], seed=0)[0]
    assert head.scores(np.array([[1, 0.01], [0, 1]], dtype=np.float32)).argmax(axis=1).tolist() == [1, 0]


def test_equal_cosines_go_to_the_earlier_row_however_they_were_ordered() -> None:
    same = np.ones((4, 3), dtype=np.float32)
    held = rows(same, kind="none")
    held.index = np.array([3, 1, 0, 2])
    head = Knn.fit(held, Targets(np.array([3, 1, 0, 2]), 4), [1], seed=0)[0]
    assert head.scores(same[:1]).argmax() == 0


def test_balanced_votes_weigh_the_rare_class_more() -> None:
    train = np.array([[1, 0], [1, 0.1], [1, 0.2], [0.9, 0.5]], dtype=np.float32)
    y = np.array([0, 0, 0, 1])
    fresh = np.array([[1, 0.1]], dtype=np.float32)
    plain = Knn.fit(rows(train, kind="none"), Targets(y, 2), [4], seed=0)[0].scores(fresh)[0]
    balanced = Knn.fit(rows(train, kind="none"), Targets(y, 2, True), [4], seed=0)[0].scores(fresh)[0]
    np.testing.assert_allclose(plain, [0.75, 0.25], atol=2e-4)
    np.testing.assert_allclose(balanced, [0.5, 0.5], atol=2e-4)


def test_k_beyond_the_training_rows_is_refused() -> None:
    raw, y = blobs(4, 3, 2)
    with pytest.raises(UserError, match=r"k of 9 and 4 training images.*heads.fit.k_grid"):
        Knn.fit(rows(raw), Targets(y, 2), [1, 9], seed=0)
