"""Linear maps whose result belongs to the row alone.

A matrix product adds up a row in an order that depends on how many rows came with it, so a value near a threshold can
change sides between a query of one image and the batch that filled the database. Here the product is taken in float64,
and the few values that its error bound leaves in doubt are added up again exactly. Codes and weights are float32, whose
products float64 holds exactly, so `math.fsum` gives the true sum whatever the order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import expit

from pipeline.base.errors import UserError
from pipeline.hashing.check import Bits, Codes, Float32, Float64

BLOCK_VALUES = 1 << 22  # of a block of codes in float64: 32 MB


def blocks(codes: Codes) -> Iterator[slice]:
    """Slices of rows, each of at most BLOCK_VALUES values (one row at least)."""
    rows = max(1, BLOCK_VALUES // codes.shape[1])
    return (slice(start, start + rows) for start in range(0, len(codes), rows))


def signs(codes: Codes, weights: Float32, offset: Float64) -> Bits:
    """(n, d), (d, nbits), (nbits,) -> (n, nbits): whether the exact value of codes @ weights + offset is above 0."""
    bits = np.empty((len(codes), weights.shape[1]), dtype=np.bool_)
    wide = weights.astype(np.float64)
    for rows in blocks(codes):
        x = codes[rows].astype(np.float64)
        value, bound = _product(x, wide, offset)
        for i, j in np.argwhere(np.abs(value) <= bound):
            value[i, j] = _exact(x[i], wide[:, j], offset[j])
        bits[rows] = value > 0
    return bits


def affine(codes: Codes, weights: Float32, offset: Float64) -> Float32:
    """(n, d), (d, k), (k,) -> (n, k): codes @ weights + offset, rounded once from its exact value to float32."""
    result = np.empty((len(codes), weights.shape[1]), dtype=np.float32)
    wide = weights.astype(np.float64)
    for rows in blocks(codes):
        x = codes[rows].astype(np.float64)
        value, bound = _product(x, wide, offset)
        low, high = (value - bound).astype(np.float32), (value + bound).astype(np.float32)
        for i, j in np.argwhere(low != high):
            low[i, j] = _exact(x[i], wide[:, j], offset[j])
        result[rows] = low
    return result


def sigmoid(values: Float32) -> Float32:
    """1 / (1 + exp(-v)), in float64 and one value at a time, so that it does not depend on its neighbours."""
    rounded: Float32 = expit(values.astype(np.float64)).astype(np.float32)
    return rounded


def unit_rows(codes: Codes) -> Float32:
    """(n, d) -> (n, d) float32 rows of length 1; a row of zeros stays one."""
    result = np.empty(codes.shape, dtype=np.float32)
    for rows in blocks(codes):
        x = codes[rows].astype(np.float64)
        norm = np.sqrt(np.add.reduce(x * x, axis=1, keepdims=True))
        result[rows] = x / np.where(norm > 0, norm, 1.0)
    return result


# Made of square roots, which are correctly rounded everywhere; other powers differ between machines in the last digit.
POWERS: dict[float, Callable[[Float64], Float64]] = {
    1.0: lambda x: x,
    0.75: lambda x: np.sqrt(x) * np.sqrt(np.sqrt(x)),
    0.5: np.sqrt,
}


def power_rows(codes: Codes, power: float) -> Float32:
    """(n, d) -> (n, d) float32 rows of length 1 of sign(x) |x|^power, power one of POWERS; a row of zeros stays one.

    Power normalisation (Perronnin, Sanchez and Mensink 2010): a few large activations no longer decide all distances.
    Raises UserError on another power.
    """
    if power not in POWERS:
        raise UserError(f"codes cannot be brought to the power {power}", allowed=list(POWERS))
    result = np.empty(codes.shape, dtype=np.float32)
    for rows in blocks(codes):
        x = codes[rows].astype(np.float64)
        result[rows] = np.copysign(POWERS[power](np.abs(x)), x)
    return unit_rows(result)


def _product(x: Float64, weights: Float64, offset: Float64) -> tuple[Float64, Float64]:
    """The value and a bound on its error: (d + 2) eps sum|x||w| in any order of summation, and Cauchy-Schwarz."""
    value = x @ weights + offset
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(weights, axis=0) + np.abs(offset)
    return value, (x.shape[1] + 2) * np.finfo(np.float64).eps * size


def _exact(x: Float64, weights: Float64, offset: float) -> float:
    return math.fsum([*(x * weights), offset])
