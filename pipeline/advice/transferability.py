"""LogME and the H-score: how well codes carry labels, without fitting a head. Both are higher for better codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

_STEPS = 100
_TOLERANCE = 1e-6
_CHUNK = 1024  # columns that are widened to float64 at a time


def spectrum(x: NDArray[Any]) -> tuple[Doubles, Doubles]:
    """Squared singular values (r,) of x (n, d) and its left singular vectors (n, r).

    By the smaller of the two Gram matrices. Values that are nought but for rounding are left out.
    """
    n, d = x.shape
    if n <= d:
        gram = np.zeros((n, n))
        for start in range(0, d, _CHUNK):
            part = x[:, start : start + _CHUNK].astype(np.float64)
            gram += part @ part.T
        values, left = eigh(gram, overwrite_a=True, check_finite=False)
        kept = _above_rounding(values)
        return values[kept], left[:, kept]
    wide = x.astype(np.float64)
    values, right = eigh(wide.T @ wide, overwrite_a=True, check_finite=False)
    kept = _above_rounding(values)
    return values[kept], wide @ (right[:, kept] / np.sqrt(values[kept]))


def _above_rounding(values: Doubles) -> NDArray[np.bool_]:
    kept: NDArray[np.bool_] = values > len(values) * np.finfo(np.float64).eps * max(values[-1], np.finfo(float).tiny)
    return kept


def logme(x: NDArray[Any], y: Ints) -> float:
    """Log evidence a row, in nats, of Bayesian linear regression from codes x (n, d) to each class's indicator, and of
    these the mean (You, Liu, Wang and Long 2021, equations 2 to 4 and algorithm 1).

    y = X w + noise, w ~ N(0, I / a), noise ~ N(0, I / b); a and b maximise the evidence, by MacKay's fixed point.
    """
    squares, left = spectrum(x)
    classes = np.unique(y)
    return float(np.mean([_evidence(squares, left, (y == c).astype(np.float64), x.shape[1]) for c in classes]))


def _evidence(squares: Doubles, left: Doubles, target: Doubles, d: int) -> float:
    n = len(target)
    along = (left.T @ target) ** 2
    beside = max(float(target @ target - along.sum()), 0.0)
    # Codes that fit the labels to the last digit would leave the noise no variance, and b no value.
    least = 1e-12 * float(target @ target)

    def moments(a: float, b: float) -> tuple[float, float, float]:
        """|m|^2, |X m - y|^2 and the effective number of parameters at the posterior mean m."""
        shrunk = a + b * squares
        length = float((b**2 * squares * along / shrunk**2).sum())
        error = float((a**2 * along / shrunk**2).sum()) + beside
        return max(length, least), max(error, least), float((b * squares / shrunk).sum())

    a, b = 1.0, 1.0
    for _ in range(_STEPS):
        length, error, parameters = moments(a, b)
        ratio = a / b
        a, b = parameters / length, max(n - parameters, 1e-12 * n) / error
        # The posterior mean depends on the ratio alone.
        if abs(a / b - ratio) <= _TOLERANCE * ratio:
            break
    length, error, _ = moments(a, b)
    log_det = float(np.log(a + b * squares).sum()) + (d - len(squares)) * np.log(a)
    evidence = n * np.log(b) + d * np.log(a) - n * np.log(2 * np.pi) - b * error - a * length - log_det
    return float(evidence / (2 * n))


def h_score(x: NDArray[Any], y: Ints) -> float:
    """tr(cov(f)^-1 cov(E[f|y])) of codes x (n, d) (Bao et al. 2019, definition 2), from 0 to the number of classes - 1.

    The covariance is shrunk towards a multiple of I as Ledoit and Wolf (2004) have it, and the class means' by the same
    factor (Ibrahim, Ponomareva and Mazumder 2021, equation 4), since n < d leaves the plain one singular.
    """
    n, d = x.shape
    centred = x - x.mean(axis=0, dtype=np.float64).astype(x.dtype)
    squares, left = spectrum(centred)
    if not len(squares):
        return 0.0
    shrinkage = _ledoit_wolf(centred, squares)
    scale = squares.sum() / (n * d)
    covariance = (1 - shrinkage) * squares / n + shrinkage * scale
    score = 0.0
    for c in np.unique(y):
        own = y == c
        between = squares * left[own].mean(axis=0) ** 2
        score += own.mean() * float((between / covariance).sum())
    return (1 - shrinkage) * score


def _ledoit_wolf(centred: NDArray[Any], squares: Doubles) -> float:
    """The share of the identity that least expects to err, 0 to 1 (Ledoit and Wolf 2004, section 3.3)."""
    n, d = centred.shape
    lengths = np.einsum("ij,ij->i", centred, centred, dtype=np.float64)
    covariance2 = float((squares**2).sum()) / n**2
    away = covariance2 - (squares.sum() / n) ** 2 / d
    noise = (float((lengths**2).sum()) / n - covariance2) / n
    return 1.0 if away <= 0 else float(np.clip(noise / away, 0.0, 1.0))
