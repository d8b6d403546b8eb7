"""LogME and the H-score against their definitions by dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from pipeline.advice.transferability import h_score, logme, spectrum
from tests.heads.world import blobs

SHAPES = [(60, 8), (20, 50)]


@pytest.mark.parametrize(("n", "d"), [*SHAPES, (30, 30)])
def test_the_spectrum_is_that_of_the_matrix(n: int, d: int) -> None:
    x, _ = blobs(n, d, 3)
    squares, left = spectrum(x)
    values = np.linalg.svd(x.astype(np.float64), compute_uv=False) ** 2
    assert np.allclose(np.sort(squares), np.sort(values)[-len(squares) :], rtol=1e-8)
    assert np.allclose(left.T @ left, np.eye(len(squares)), atol=1e-7)
    assert np.allclose((left * squares) @ left.T, x.astype(np.float64) @ x.T.astype(np.float64), atol=1e-6)


def evidence(x: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """The largest log density a row of y ~ N(0, X X' / a + I / b) over a and b, by a search."""

    def loss(logs: NDArray[np.float64]) -> float:
        a, b = np.exp(logs)
        return -float(multivariate_normal.logpdf(target, cov=x @ x.T / a + np.eye(len(x)) / b))

    starts = [(0.0, 0.0), (3.0, 3.0), (-2.0, 3.0), (5.0, 1.0)]
    return -min(minimize(loss, s, method="Nelder-Mead", options={"maxiter": 2000}).fun for s in starts) / len(x)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_logme_is_the_largest_evidence(n: int, d: int) -> None:
    x, y = blobs(n, d, 3, apart=0.7)
    wide = x.astype(np.float64)
    wanted = np.mean([evidence(wide, (y == c).astype(np.float64)) for c in range(3)])
    assert logme(x, y) == pytest.approx(wanted, abs=2e-4)


def test_h_score_with_many_rows_is_the_plain_definition() -> None:
    x, y = blobs(20_000, 4, 3, apart=0.5)
    f = x.astype(np.float64) - x.mean(axis=0)
    means = np.stack([f[y == c].mean(axis=0) for c in range(3)])[y]
    wanted = np.trace(np.linalg.solve(f.T @ f / len(f), means.T @ means / len(f)))
    assert h_score(x, y) == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_h_score_is_shrunk_as_ledoit_and_wolf_have_it(n: int, d: int) -> None:
    x, y = blobs(n, d, 3, apart=0.7)
    f = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    covariance, shrinkage = ledoit_wolf(f, assume_centered=True)
    means = np.stack([f[y == c].mean(axis=0) for c in range(3)])[y]
    between = (1 - shrinkage) * means.T @ means / n
    assert h_score(x, y) == pytest.approx(np.trace(np.linalg.solve(covariance, between)), rel=1e-5)


def test_both_rank_better_codes_higher_and_ignore_a_rotation() -> None:
    near, y = blobs(90, 12, 3, apart=0.3)
    far, _ = blobs(90, 12, 3, apart=1.5)
    assert logme(far, y) > logme(near, y) and h_score(far, y) > h_score(near, y)
    turned, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))
    assert logme(far @ turned, y) == pytest.approx(logme(far, y), abs=1e-5)
    assert h_score(far @ turned, y) == pytest.approx(h_score(far, y), abs=1e-5)


def test_codes_that_are_all_equal_tell_nothing() -> None:
    x = np.ones((12, 5), dtype=np.float32)
    y = np.arange(12) % 3
    assert h_score(x, y) == 0.0 and np.isfinite(logme(x, y))
