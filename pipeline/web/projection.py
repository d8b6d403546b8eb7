"""A collection as points in the plane: the first two principal components of its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Projection:
    """`rows` (m,) ascend; `points` (m, 2) are in [0, 1]; `explained`: the share of the variance along each axis."""

    rows: NDArray[np.int64]
    points: NDArray[np.float64]
    explained: tuple[float, float]


def project(codes: NDArray[Any], *, most: int, seed: int = 0) -> Projection:
    """(n, d) codes, of which `most` are drawn at random where there are more. Rows are brought to length 1 first, as
    cosine does. The sign of an axis is the one that makes its largest value positive.
    """
    rows = np.arange(len(codes))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    points, explained = np.zeros((len(rows), 2)), (0.0, 0.0)
    if len(rows) > 1:
        x = codes[rows].astype(np.float32)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        x -= x.mean(axis=0)
        # The Gram matrix (m, m) has the same components as the covariance (d, d), of which d may be 25,088.
        values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
        values = np.maximum(values, 0)
        axes = vectors[:, [-1, -2]] * np.sqrt(values[[-1, -2]])
        axes *= np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)
        low, span = axes.min(axis=0), np.ptp(axes, axis=0)
        points = np.divide(axes - low, span, out=np.full_like(axes, 0.5), where=span > 1e-12)
        total = values.sum() or 1.0
        explained = float(values[-1] / total), float(values[-2] / total)
    else:
        points[:] = 0.5
    return Projection(rows.astype(np.int64), points, explained)
