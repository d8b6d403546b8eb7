"""The measures against scikit-learn's, and by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as oracle

from pipeline.metrics import classify

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@given(PAIRS)
def test_counts_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, answers = (np.array(column) for column in zip(*pairs, strict=True))
    counts = classify.confusion(true, answers, 4)
    np.testing.assert_array_equal(counts, oracle.confusion_matrix(true, answers, labels=range(4)))
    assert classify.accuracy(counts) == pytest.approx(oracle.accuracy_score(true, answers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert classify.mean_class_recall(counts) == pytest.approx(oracle.balanced_accuracy_score(true, answers))
        assert classify.macro_f1(counts) == pytest.approx(oracle.f1_score(true, answers, average="macro"))


@given(PAIRS)
def test_recall_of_each_class_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, answers = (np.array(column) for column in zip(*pairs, strict=True))
    found = classify.class_recall(classify.confusion(true, answers, 4))
    wanted = oracle.recall_score(true, answers, labels=range(4), average=None, zero_division=np.nan)
    np.testing.assert_allclose(np.array(found, dtype=float), wanted)


@pytest.mark.parametrize(("n", "k"), [(1, 2), (5, 40), (300, 3)])
def test_log_loss_is_that_of_scikit_learn(n: int, k: int) -> None:
    generator = np.random.default_rng(n)
    p, true = generator.dirichlet(np.ones(k), n), generator.integers(0, k, n)
    assert classify.log_loss(true, p) == pytest.approx(oracle.log_loss(true, p, labels=range(k)))


@given(
    arrays(np.float64, (12, 6), elements=st.sampled_from([0.0, 0.5, 1.0])),
    st.lists(st.integers(0, 5), min_size=12, max_size=12),
    st.integers(1, 6),
)
def test_top_k_with_ties_is_scikit_learns_with_the_classes_turned_round(
    scores: np.ndarray, labels: list[int], top: int
) -> None:
    """Of equal scores its first is the later class, ours the earlier one."""
    true = np.array(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mirrored = oracle.top_k_accuracy_score(5 - true, scores[:, ::-1], k=top, labels=range(6))
    assert classify.top_k_accuracy(true, scores, top) == pytest.approx(mirrored)


def test_by_hand() -> None:
    true = np.array([0, 0, 0, 1])
    scores = np.array([[2, 1, 0], [0, 1, 0], [3, 1, 2], [0, 5, 1]], dtype=np.float32)
    counts = classify.confusion(true, classify.predicted(scores), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert classify.accuracy(counts) == 0.75
    assert classify.mean_class_recall(counts) == pytest.approx((2 / 3 + 1) / 2)
    assert classify.macro_f1(counts) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_top_k_ranks_ties_by_class_order() -> None:
    scores = np.array([[1.0, 1.0, 0.0]] * 3)
    true = np.array([0, 1, 2])
    assert [classify.top_k_accuracy(true, scores, top) for top in (1, 2, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_top_one_is_accuracy_and_top_k_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    scores, true = generator.random((200, 12)), generator.integers(0, 12, 200)
    counts = classify.confusion(true, classify.predicted(scores), 12)
    assert classify.top_k_accuracy(true, scores, 1) == classify.accuracy(counts)
    assert classify.top_k_accuracy(true, scores, 5) == pytest.approx(
        oracle.top_k_accuracy_score(true, scores, k=5, labels=range(12))
    )


def test_log_loss_is_in_nats_and_clipped() -> None:
    p = np.array([[0.5, 0.5], [0.0, 1.0]])
    assert classify.log_loss(np.array([0, 1]), p) == pytest.approx(math.log(2) / 2)
    assert classify.log_loss(np.array([0, 0]), p) == pytest.approx((math.log(2) - math.log(1e-15)) / 2)


def test_recall_of_each_class_by_hand() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    assert classify.class_recall(counts) == [0.75, None, 0.5]
    scores = np.eye(3)[[0, 2, 2]]
    found = classify.measure(np.array([0, 0, 2]), scores, probabilities=False)
    assert found["class_recall"] == [0.5, None, 1.0] and found["mean_class_recall"] == 0.75


def test_measure_has_a_log_loss_only_with_probabilities() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    found = classify.measure(np.array([0, 1]), p, probabilities=True)
    assert found["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2, rel=1e-6)
    assert classify.measure(np.array([0, 1]), p, probabilities=False)["log_loss"] is None
