"""The SVM's optimum is liblinear's, in both spaces, streamed or not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from pipeline.heads import newton
from pipeline.heads.base import Targets
from pipeline.heads.newton import Span, Weights, space_of
from pipeline.heads.svm import Svm, svm_path
from tests.heads.world import blobs, rows

GRID = [0.1, 1.0, 30.0]


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, c: float, weight: np.ndarray) -> np.ndarray:
    """liblinear's, written out for each class: (k,). Of two classes every row weighs what its class does."""
    values = []
    for j in range(w.shape[1]):
        signs = np.where(y == j, 1, -1)
        short = np.maximum(0, 1 - signs * (x @ w[:-1, j] + w[-1, j]))
        others = weight[1 - j] if w.shape[1] == 2 else 1
        values.append(0.5 * w[:, j] @ w[:, j] + c * (np.where(y == j, weight[j], others) * short**2).sum())
    return np.array(values)


def both_sides(oracle: LinearSVC) -> np.ndarray:
    """(d + 1, k) weights of liblinear, which keeps one machine for two classes."""
    w = np.c_[oracle.coef_, oracle.intercept_].T
    return np.c_[-w, w] if w.shape[1] == 1 else w


@pytest.mark.parametrize(("n", "d", "space"), [(60, 200, Span), (300, 12, Span), (300, 12, Weights)])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_optimum_is_that_of_liblinear(  # noqa: PLR0917
    n: int, d: int, space: type, balanced: bool, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if space is Weights:
        monkeypatch.setattr(newton, "SPAN_ROWS", 0)
    raw, y = blobs(n, d, k, apart=0.5)
    y = np.where(np.arange(n) % 3 == 0, 0, y)
    held = rows(raw)
    assert isinstance(space_of(held), space)
    targets = Targets(y, k, balanced)
    x = held.scaling.apply(raw).astype(np.float64)
    for c, w in zip(GRID, svm_path(held, targets, GRID), strict=True):
        oracle = LinearSVC(C=c, class_weight="balanced" if balanced else None, tol=1e-8, max_iter=100_000).fit(x, y)
        wanted = both_sides(oracle)
        theirs = objective(x, y, wanted, c, targets.class_weights())
        ours = objective(x, y, w, c, targets.class_weights())
        np.testing.assert_allclose(ours, theirs, rtol=3e-5)
        np.testing.assert_allclose(w, wanted, atol=0.02 * np.abs(wanted).max())


def test_balanced_classes_of_unequal_size_are_told_apart_where_liblinear_does() -> None:
    raw, y = np.array([[0], [1], [2]], dtype=np.float32), np.array([0, 0, 1])
    (w,) = svm_path(rows(raw, kind="none"), Targets(y, 2, True), [1.0], tol=1e-10)
    assert -w[1, 1] / w[0, 1] == pytest.approx(1.0714, abs=1e-4)
    np.testing.assert_array_equal(w[:, 0], -w[:, 1])


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0])
def test_balanced_answers_of_a_rare_class_are_those_of_liblinear(c: float) -> None:
    raw, _ = blobs(400, 30, 2, apart=0.25)
    raw = np.concatenate([raw[::2], raw[1:41:2]])
    y = np.repeat([0, 1], [200, 20])
    head = Svm.fit(rows(raw, kind="none"), Targets(y, 2, True), [c], seed=0)[0]
    oracle = LinearSVC(C=c, class_weight="balanced", tol=1e-8, max_iter=100_000).fit(raw.astype(np.float64), y)
    assert (head.scores(raw).argmax(axis=1) == oracle.predict(raw)).mean() > 0.99


@pytest.mark.parametrize("price", [0.0, np.inf])
def test_exact_and_iterated_newton_steps_agree(price: float, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, y = blobs(80, 150, 3, apart=0.3)
    expected = svm_path(rows(raw), Targets(y, 3), [5.0], tol=1e-10)[0]
    monkeypatch.setattr("pipeline.heads.svm.SupportSystem.price", lambda *_: price)
    found = svm_path(rows(raw), Targets(y, 3), [5.0], tol=1e-10)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("n", "d", "memory_bytes"), [(120, 900, 200_000), (400, 10, 9_000)])
def test_streamed_rows_give_the_same_weights(n: int, d: int, memory_bytes: int) -> None:
    raw, y = blobs(n, d, 3, apart=0.5)
    streamed = rows(raw, memory_bytes=memory_bytes)
    assert streamed.streamed and len(list(streamed.blocks())) > 2
    held = rows(raw)
    assert not held.streamed
    for ours, theirs in zip(
        svm_path(streamed, Targets(y, 3), GRID, tol=1e-9), svm_path(held, Targets(y, 3), GRID, tol=1e-9), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())


def test_the_path_does_not_depend_on_the_order_of_the_grid() -> None:
    raw, y = blobs(50, 80, 3)
    forward = svm_path(rows(raw), Targets(y, 3), [0.1, 10.0])
    backward = svm_path(rows(raw), Targets(y, 3), [10.0, 0.1])
    np.testing.assert_array_equal(forward[0], backward[1])
    np.testing.assert_array_equal(forward[1], backward[0])


def test_rows_that_repeat_and_rows_of_zeros_are_no_trouble() -> None:
    raw, y = blobs(40, 100, 2)
    raw[5] = raw[3]
    raw[6] = 0
    fitted = Svm.fit(rows(raw), Targets(y, 2), [100.0], seed=0)[0]
    assert np.isfinite(fitted.weights).all()
    assert fitted.weights.shape == (100, 2) and fitted.intercepts.shape == (2,)


def test_prefixes_share_the_gram_matrix() -> None:
    raw, y = blobs(60, 90, 3)
    whole = rows(raw)
    part = svm_path(whole.first(40), Targets(y[:40], 3), [1.0])[0]
    alone = svm_path(rows(raw[:40]), Targets(y[:40], 3), [1.0])[0]
    np.testing.assert_allclose(part, alone, atol=1e-4)
    assert np.shares_memory(whole.first(40).gram(), whole.gram())
