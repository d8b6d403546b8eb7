"""Nearest neighbours by definition: order, ties and votes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import KNeighborsClassifier

from pipeline.errors import UserError
from pipeline.heads.base import Targets
from pipeline.heads.knn import Knn, nearest
from tests.heads.world import blobs, rows


@given(arrays(np.float64, (3, 9), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.integers(1, 9))
def test_nearest_is_a_stable_sort(similar: np.ndarray, k: int) -> None:
    expected = [sorted(range(9), key=lambda j, row=row: (-row[j], j))[:k] for row in similar]
    assert nearest(similar, k).tolist() == expected


@pytest.mark.parametrize("k", [1, 3, 7])
def test_shares_are_those_of_scikit_learn(k: int) -> None:
    raw, y = blobs(80, 12, 3, apart=0.4)
    fresh, _ = blobs(40, 12, 3, seed=5, apart=0.4)
    held = rows(raw, kind="none")
    oracle = KNeighborsClassifier(k, metric="cosine").fit(raw, y).predict_proba(fresh)
    ours = Knn.fit(held, Targets(y, 3), [k], seed=0)[0].scores(fresh)
    np.testing.assert_allclose(ours, oracle, atol=6e-4)


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
    with pytest.raises(UserError, match=r"k of 9 and 4 training images.*heads.k_grid"):
        Knn.fit(rows(raw), Targets(y, 2), [1, 9], seed=0)
