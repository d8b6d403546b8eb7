"""The reduction to the span of the rows leaves liblinear's optimum where it was."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from pipeline.heads.base import Targets
from pipeline.heads.crammer_singer import CrammerSinger
from tests.heads.world import blobs, rows


def objective(x: np.ndarray, y: np.ndarray, head: CrammerSinger, c: float, u: np.ndarray) -> float:
    """0.5 ||W||^2 + C sum_i u_y max_m (1[m != y_i] - (w_y - w_m) x_i), written out."""
    scores = x @ head.weights + head.intercepts
    margins = scores + (np.arange(scores.shape[1]) != y[:, None]) - scores[np.arange(len(y)), y][:, None]
    norm = (head.weights**2).sum() + (head.intercepts**2).sum()
    return float(0.5 * norm + c * (u[y] * margins.max(axis=1)).sum())


@pytest.mark.parametrize(("n", "d"), [(40, 120), (150, 10)])
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_objective_is_that_of_liblinear(n: int, d: int, k: int, balanced: bool) -> None:
    raw, y = blobs(n, d, k, apart=0.3)
    y = np.where(np.arange(n) % 3 == 0, 0, y)
    held, targets = rows(raw), Targets(y, k, balanced)
    x, u = held.scaling.apply(raw).astype(np.float64), targets.class_weights()
    head = CrammerSinger.fit(held, targets, [2.0], seed=0)[0]
    oracle = LinearSVC(
        C=2.0,
        multi_class="crammer_singer",
        class_weight="balanced" if balanced else None,
        tol=1e-4,
        max_iter=100_000,
    ).fit(x, y)
    coef, intercept = oracle.coef_.T, oracle.intercept_
    if k == 2:
        coef, intercept = np.c_[-coef / 2, coef / 2], np.r_[-intercept / 2, intercept / 2]
    assert objective(x, y, head, 2.0, u) == pytest.approx(
        objective(x, y, CrammerSinger(coef, intercept), 2.0, u), rel=1e-3
    )


def test_a_fit_that_liblinear_left_unfinished_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, y = blobs(40, 6, 3, apart=0.3)
    assert CrammerSinger.fit(rows(raw), Targets(y, 3), [0.1], seed=0)[0].unfinished == ""
    monkeypatch.setattr("pipeline.heads.crammer_singer.MAX_PASSES", 2)
    assert "liblinear stopped after" in CrammerSinger.fit(rows(raw), Targets(y, 3), [0.1], seed=0)[0].unfinished
