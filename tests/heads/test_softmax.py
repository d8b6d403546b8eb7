"""The penalised multinomial fits against scikit-learn's, and the optimality conditions of the sparse ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from pipeline.heads import newton
from pipeline.heads.base import Targets
from pipeline.heads.softmax import CrossEntropy, Softmax, SoftmaxElastic, SoftmaxL1, SparseSoftmax
from tests.heads.world import blobs, rows


def augmented(head: Softmax | SparseSoftmax) -> np.ndarray:
    return np.r_[head.weights, head.intercepts[None]].astype(np.float64)


def cross_entropy(x: np.ndarray, y: np.ndarray, w: np.ndarray, u: np.ndarray) -> float:
    scores = x @ w
    own = scores[np.arange(len(y)), y]
    return float((u[y] * (np.log(np.exp(scores).sum(axis=1)) - own)).sum())


def sparse_objective(x: np.ndarray, targets: Targets, c: float, ratio: float) -> Callable[[np.ndarray], float]:
    """scikit-learn's, with C at the losses."""
    u = targets.class_weights()
    return lambda w: float(
        ratio * np.abs(w).sum() + (1 - ratio) / 2 * (w**2).sum() + c * cross_entropy(x, targets.y, w, u)
    )


@pytest.mark.parametrize(("n", "d", "span_rows"), [(60, 150, 4096), (250, 12, 4096), (250, 12, 0)])
@pytest.mark.parametrize("balanced", [False, True])
def test_l2_reaches_the_optimum(
    n: int, d: int, span_rows: int, balanced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "SPAN_ROWS", span_rows)
    raw, y = blobs(n, d, 4, apart=0.4)
    y = np.where(np.arange(n) % 3 == 0, 0, y)
    held, targets = rows(raw), Targets(y, 4, balanced)
    x = np.c_[held.scaling.apply(raw).astype(np.float64), np.ones(n)]
    u = targets.class_weights()
    for c, head in zip([0.3, 20.0], Softmax.fit(held, targets, [0.3, 20.0], seed=0), strict=True):
        oracle = LogisticRegression(
            C=c, fit_intercept=False, class_weight="balanced" if balanced else None, tol=1e-9, max_iter=10_000
        ).fit(x, y)
        ours, theirs = (0.5 * (w**2).sum() + c * cross_entropy(x, y, w, u) for w in (augmented(head), oracle.coef_.T))
        assert ours == pytest.approx(theirs, rel=2e-5)


SPARSE = pytest.mark.parametrize(("kind", "ratio"), [(SoftmaxL1, 1.0), (SoftmaxElastic, 0.5)])


@SPARSE
@pytest.mark.parametrize(("n", "d", "k"), [(90, 20, 3), (40, 120, 3), (150, 10, 4)])
@pytest.mark.parametrize("balanced", [False, True])
def test_sparse_ones_reach_the_optimum_of_saga(  # noqa: PLR0917
    kind: type[SparseSoftmax], ratio: float, n: int, d: int, k: int, balanced: bool
) -> None:
    raw, y = blobs(n, d, k, apart=0.6)
    y = np.where(np.arange(n) % 3 == 0, 0, y)
    held, targets = rows(raw), Targets(y, k, balanced)
    x = np.c_[held.scaling.apply(raw).astype(np.float64), np.ones(n)]
    for c, head in zip([0.5, 5.0], kind.fit(held, targets, [0.5, 5.0], seed=0), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            oracle = LogisticRegression(
                C=c,
                penalty="elasticnet",
                solver="saga",
                l1_ratio=ratio,
                class_weight="balanced" if balanced else None,
                fit_intercept=False,
                tol=1e-7,
                max_iter=50_000,
            ).fit(x, y)
        w, theirs = augmented(head), oracle.coef_.T
        value = sparse_objective(x, targets, c, ratio)
        assert value(w) == pytest.approx(value(theirs), rel=2e-5)
        assert ((w == 0) == (theirs == 0)).mean() > 0.95


@SPARSE
@pytest.mark.parametrize("c", [30.0, 1000.0])
def test_sparse_ones_at_a_large_c_reach_the_optimum_of_lbfgs(kind: type[SparseSoftmax], ratio: float, c: float) -> None:
    raw, y = blobs(120, 12, 3, apart=0.2)
    held, targets = rows(raw), Targets(y, 3)
    x = np.c_[held.scaling.apply(raw).astype(np.float64), np.ones(120)]
    value = sparse_objective(x, targets, c, ratio)
    head = kind.fit(held, targets, [c], seed=0)[0]

    def split(parts: np.ndarray) -> tuple[float, np.ndarray]:
        """The same with W = U - V and U, V >= 0, smooth in both."""
        u, v = parts.reshape(2, 13, 3)
        scores = x @ (u - v)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        slope = c * x.T @ (p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]) + (1 - ratio) * (u - v)
        penalty = ratio * parts.sum() + (1 - ratio) / 2 * ((u - v) ** 2).sum()
        return penalty + c * cross_entropy(x, y, u - v, np.ones(3)), np.stack([slope + ratio, ratio - slope]).ravel()

    oracle = minimize(
        split,
        np.zeros(78),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * 78,
        options={"maxiter": 5000, "maxfun": 9000, "maxcor": 30, "ftol": 1e-14, "gtol": 1e-6},
    )
    u, v = oracle.x.reshape(2, 13, 3)
    assert value(augmented(head)) == pytest.approx(oracle.fun, rel=2e-5)
    assert np.count_nonzero(augmented(head)) <= np.count_nonzero(u != v)
    assert head.unfinished == ""


def test_a_fit_that_was_left_unfinished_says_how_far(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, y = blobs(60, 20, 3)
    monkeypatch.setattr("pipeline.heads.proximal.MAX_STEPS", 1)
    assert "above its optimum" in SoftmaxL1.fit(rows(raw), Targets(y, 3), [50.0], seed=0)[0].unfinished
    monkeypatch.setattr("pipeline.heads.newton.MAX_NEWTON", 1)
    assert "above its optimum" in Softmax.fit(rows(raw), Targets(y, 3), [50.0], seed=0)[0].unfinished


def test_sparse_ones_of_streamed_rows_are_those_of_held_ones() -> None:
    raw, y = blobs(120, 80, 3, apart=0.5)
    streamed = rows(raw, memory_bytes=12_000)
    assert streamed.streamed
    for kind in (SoftmaxL1, SoftmaxElastic):
        ours, theirs = (kind.fit(x, Targets(y, 3), [0.5, 5.0], seed=0) for x in (streamed, rows(raw)))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.weights, b.weights, atol=0.01 * np.abs(b.weights).max())


@pytest.mark.parametrize(("n", "d"), [(60, 120), (200, 12)])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", [Softmax, SoftmaxL1, SoftmaxElastic])
def test_two_classes_are_told_apart_as_by_one_logistic_regression(
    kind: type[Softmax] | type[SparseSoftmax], n: int, d: int, balanced: bool
) -> None:
    """At the optimum the two columns are w / 2 and -w / 2, or share w's L1 norm otherwise: C and the mixture follow."""
    raw, y = blobs(n, d, 2, apart=0.4)
    y = np.where(np.arange(n) % 3 == 0, 0, y)
    held, targets = rows(raw), Targets(y, 2, balanced)
    x = np.c_[held.scaling.apply(raw).astype(np.float64), np.ones(n)]
    scale, ratio = {Softmax: (2.0, 0.0), SoftmaxL1: (1.0, 1.0), SoftmaxElastic: (4 / 3, 2 / 3)}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        oracle = LogisticRegression(
            C=5.0 * scale,
            penalty="elasticnet",
            solver="saga",
            l1_ratio=ratio,
            class_weight="balanced" if balanced else None,
            fit_intercept=False,
            tol=1e-7,
            max_iter=50_000,
        ).fit(x, y)
    head = kind.fit(held, targets, [5.0], seed=0)[0]
    w = augmented(head)
    difference, wanted = w[:, 1] - w[:, 0], oracle.coef_[0]
    np.testing.assert_allclose(difference, wanted, atol=0.03 * np.abs(wanted).max())
    p = head.scores(x[:, :-1].astype(np.float32))
    np.testing.assert_allclose(p, oracle.predict_proba(x), atol=0.01)


@pytest.mark.parametrize("kind", [SoftmaxL1, SoftmaxElastic])
def test_rows_that_tell_nothing_or_all_are_no_trouble(kind: type[SparseSoftmax]) -> None:
    y = np.arange(8) % 2
    empty = kind.fit(rows(np.zeros((8, 5), np.float32), kind="none"), Targets(y, 2), [0.1, 1e4], seed=0)
    assert not any(augmented(head).any() or head.unfinished for head in empty)
    same = kind.fit(rows(np.ones((8, 5), np.float32)), Targets(y, 2), [1e4], seed=0)[0]
    np.testing.assert_allclose(same.scores(np.ones((1, 5), np.float32)), 0.5, atol=1e-4)
    apart = kind.fit(rows(np.eye(2, dtype=np.float32)[y] * 9, kind="none"), Targets(y, 2), [1e6], seed=0)[0]
    assert apart.unfinished == "" and (apart.scores(np.eye(2, dtype=np.float32)).argmax(axis=1) == [0, 1]).all()


def test_a_strong_l1_penalty_leaves_nothing() -> None:
    raw, y = blobs(60, 20, 3)
    assert not augmented(SoftmaxL1.fit(rows(raw), Targets(y, 3), [1e-4], seed=0)[0]).any()


def test_scores_are_distributions() -> None:
    raw, y = blobs(60, 20, 3)
    held = rows(raw)
    scores = Softmax.fit(held, Targets(y, 3), [1e4], seed=0)[0].scores(held.scaling.apply(raw))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert (scores >= 0).all() and (scores.argmax(axis=1) == y).all()


def test_slope_and_curvature_are_derivatives() -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 7)
    loss = CrossEntropy(np.eye(3)[y], generator.uniform(0.5, 2, (7, 1)))
    at, way = generator.standard_normal((2, 7, 3))
    h = 1e-5
    numeric = (loss.value(at + h * way) - loss.value(at - h * way)) / (2 * h)
    assert (loss.slope(at) * way).sum() == pytest.approx(numeric[0], rel=1e-6)
    bent = (loss.slope(at + h * way) - loss.slope(at - h * way)) / (2 * h)
    np.testing.assert_allclose(loss.curvature(at)(way.astype(np.float32), slice(0, 7)), bent, atol=1e-5)
