"""Principal components of codes that are too many for one float64 copy."""

from __future__ import annotations

import numpy as np

from pipeline.base.errors import UserError
from pipeline.hashing import check
from pipeline.hashing.check import Codes, Float64
from pipeline.hashing.exact import blocks

EXACT_DIM = 2048  # up to here the whole covariance is decomposed
_OVERSAMPLING = 16
_POWERS = 3


def column_means(codes: Codes) -> Float64:
    """(n, d) -> (d,)."""
    total = np.zeros(codes.shape[1])
    for rows in blocks(codes):
        total += codes[rows].sum(axis=0, dtype=np.float64)
    return total / len(codes)


def principal(codes: Codes, count: int, *, who: str, seed: int) -> tuple[Float64, Float64]:
    """The mean (d,) and the `count` leading directions (d, count), orthonormal, largest variance first.

    Exact up to EXACT_DIM dimensions; above, by subspace iteration from a random start (Halko, Martinsson and Tropp
    2011, algorithm 4.4). Each direction is signed so that its largest entry is positive. Raises UserError if the codes
    can't span so many.
    """
    codes = check.training(codes, rows=count + 1, who=f"{who} of {count} directions")
    dim = codes.shape[1]
    if count > dim:
        raise UserError(f"{who} was asked for {count} directions in {dim} dimensions", allowed=f"at most {dim}")
    mean = column_means(codes)
    if dim <= EXACT_DIM:
        directions = np.linalg.eigh(_covariance(codes, mean))[1][:, ::-1][:, :count]
    else:
        start = np.random.default_rng(seed).standard_normal((dim, count + _OVERSAMPLING))
        basis = np.linalg.qr(start)[0]
        for _ in range(_POWERS):
            basis = np.linalg.qr(_covariance_times(codes, mean, basis))[0]
        directions = basis @ np.linalg.eigh(basis.T @ _covariance_times(codes, mean, basis))[1][:, ::-1][:, :count]
    peaks = np.abs(directions).argmax(axis=0)
    return mean, directions * np.where(directions[peaks, np.arange(count)] < 0, -1.0, 1.0)


def _covariance(codes: Codes, mean: Float64) -> Float64:
    """The (d, d) covariance of the codes, a block of rows at a time."""
    result = np.zeros((codes.shape[1], codes.shape[1]))
    for rows in blocks(codes):
        x = codes[rows].astype(np.float64) - mean
        result += x.T @ x
    return result / len(codes)


def _covariance_times(codes: Codes, mean: Float64, right: Float64) -> Float64:
    """(d, k) -> (d, k): the covariance times `right` without the covariance; float32 inside a block, for speed."""
    result = np.zeros_like(right)
    narrow = right.astype(np.float32)
    for rows in blocks(codes):
        x = (codes[rows] - mean).astype(np.float32)
        result += x.T @ (x @ narrow)
    return result / len(codes)
