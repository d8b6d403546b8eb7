"""The penalised multinomial fits against scikit-learn's, and the optimality conditions of the sparse ones."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
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


@pytest.mark.parametrize(("kind", "ratio"), [(SoftmaxL1, 1.0), (SoftmaxElastic, 0.5)])
def test_sparse_ones_reach_the_optimum_of_saga(kind: type[SparseSoftmax], ratio: float) -> None:
    raw, y = blobs(90, 20, 3, apart=0.6)
    held = rows(raw)
    x = np.c_[held.scaling.apply(raw).astype(np.float64), np.ones(90)]
    for c, head in zip([0.5, 5.0], kind.fit(held, Targets(y, 3), [0.5, 5.0], seed=0), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            oracle = LogisticRegression(
                C=c, penalty="elasticnet", solver="saga", l1_ratio=ratio, fit_intercept=False, tol=1e-8, max_iter=50_000
            ).fit(x, y)
        w = augmented(head)
        ours, theirs = (
            ratio * np.abs(v).sum() + (1 - ratio) / 2 * (v**2).sum() + c * cross_entropy(x, y, v, np.ones(3))
            for v in (w, oracle.coef_.T)
        )
        assert ours == pytest.approx(theirs, rel=2e-4)
        assert ((w == 0) == (oracle.coef_.T == 0)).mean() > 0.9


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
