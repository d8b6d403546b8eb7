"""Scaled rows of codes, held in memory when they fit and read again block by block when they do not.

Every head meets its training rows through `Matrix`, so that one code path fits both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.scaling import Scaling

Floats = NDArray[np.floating[Any]]
Float = TypeVar("Float", np.float32, np.float64)
Singles = NDArray[np.float32]
Curvature = Callable[[Singles, slice], Singles]


class Source(Protocol):
    """What `Matrix` needs of `pipeline.codes.reader.Codes`."""

    def rows(self, index: NDArray[np.int64], /) -> NDArray[Any]: ...


class Matrix:
    """Rows `index` of `source`, scaled, in that order: a matrix X (n, d) float32 that may not fit in memory.

    A linear head sees each row with a further feature of value 1, the intercept: its weights are (d + 1, k), the
    intercept last. `memory_bytes` bounds X; above it X is read from `source` at every pass, in blocks of a quarter.
    """

    def __init__(
        self, source: Source, index: NDArray[np.int64], dim: int, scaling: Scaling, *, memory_bytes: int
    ) -> None:
        self.source, self.index, self.dim, self.scaling = source, index, dim, scaling
        self.memory_bytes = memory_bytes
        self.streamed = len(index) * dim * 4 > memory_bytes
        self.block_rows = max(1, memory_bytes // 4 // (dim * 4)) if self.streamed else max(1, len(index))
        self._held: NDArray[np.float32] | None = None
        self._gram: NDArray[np.float32] | None = None
        self._parent: Matrix | None = None

    def __len__(self) -> int:
        return len(self.index)

    def first(self, n: int) -> Matrix:
        """The first `n` rows; what this object holds (X, the Gram matrix) is shared, not computed again."""
        part = Matrix(self.source, self.index[:n], self.dim, self.scaling, memory_bytes=self.memory_bytes)
        part.streamed, part.block_rows, part._parent = self.streamed, self.block_rows, self
        return part

    def columns(self, which: NDArray[np.int64]) -> Matrix:
        """The same rows with those columns alone, held if that fits."""
        if len(which) == self.dim:
            return self
        part = _Columns(self, which)
        return Matrix(part, np.arange(len(self)), len(which), Scaling("none"), memory_bytes=self.memory_bytes)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """(rows start:stop, X[start:stop]) in order."""
        if not self.streamed:
            yield slice(0, len(self)), self._matrix()
            return
        for start in range(0, len(self), self.block_rows):
            rows = slice(start, min(start + self.block_rows, len(self)))
            yield rows, self._read(rows)

    def scores(self, weights: NDArray[Float]) -> NDArray[Float]:
        """X W + b, (n, k), in the type of `weights` (d + 1, k)."""
        out = np.empty((len(self), weights.shape[1]), dtype=weights.dtype)
        for rows, x in self.blocks():
            out[rows] = _product(x, weights[:-1]) + weights[-1]
        return out

    def lift(self, coefficients: NDArray[Float]) -> NDArray[Float]:
        """sum_i x_i a_i with the intercept's feature: (n, k) -> (d + 1, k), in the type of `coefficients`."""
        out = np.zeros((self.dim + 1, coefficients.shape[1]), dtype=coefficients.dtype)
        for rows, x in self.blocks():
            out[:-1] += _product(x.T, coefficients[rows])
        out[-1] = coefficients.sum(axis=0)
        return out

    def curved(self, weights: Singles, curvature: Curvature) -> tuple[Singles, Singles]:
        """(lift of curvature(scores), scores) of `weights` (d + 1, k), in one pass."""
        scores = np.empty((len(self), weights.shape[1]), dtype=np.float32)
        out = np.zeros_like(weights)
        for rows, x in self.blocks():
            scores[rows] = x @ weights[:-1] + weights[-1]
            bent = curvature(scores[rows], rows)
            out[:-1] += x.T @ bent
            out[-1] += bent.sum(axis=0)
        return out, scores

    def gram(self) -> NDArray[np.float32]:
        """X X^T + 1, (n, n): inner products of the rows, the intercept's feature included. Computed once."""
        if self._parent is not None:
            return self._parent.gram()[: len(self), : len(self)]
        if self._gram is None:
            gram = np.empty((len(self), len(self)), dtype=np.float32)
            for rows, x in self.blocks():
                gram[rows, rows] = x @ x.T
                for start in range(rows.stop, len(self), self.block_rows):
                    others = slice(start, min(start + self.block_rows, len(self)))
                    gram[rows, others] = x @ self._read(others).T
                    gram[others, rows] = gram[rows, others].T
            gram += 1
            self._gram = gram
        return self._gram

    def _matrix(self) -> NDArray[np.float32]:
        if self._parent is not None:
            return self._parent._matrix()[: len(self)]
        if self._held is None:
            self._held = self._read(slice(0, len(self)))
        return self._held

    def _read(self, rows: slice) -> NDArray[np.float32]:
        return self.scaling.apply(self.source.rows(self.index[rows]))


class _Columns:
    """Some columns of scaled rows; a row's number is its place in `whole`."""

    def __init__(self, whole: Matrix, which: NDArray[np.int64]) -> None:
        self.whole, self.which = whole, which

    def rows(self, index: NDArray[np.int64], /) -> NDArray[np.float32]:
        whole = self.whole
        if not whole.streamed:
            return whole._matrix()[np.ix_(index, self.which)]
        return whole.scaling.apply(whole.source.rows(whole.index[index]))[:, self.which]


def _product(x: Singles, y: NDArray[Float], chunk: int = 1024) -> NDArray[Float]:
    """x @ y in the type of y; x (float32) is widened a chunk of rows or columns at a time, never whole."""
    if x.dtype == y.dtype:
        return x @ y
    if x.shape[0] <= x.shape[1]:
        out = np.zeros((x.shape[0], y.shape[1]), dtype=y.dtype)
        for start in range(0, x.shape[1], chunk):
            out += x[:, start : start + chunk].astype(y.dtype) @ y[start : start + chunk]
        return out
    return np.concatenate([x[i : i + chunk].astype(y.dtype) @ y for i in range(0, x.shape[0], chunk)])
