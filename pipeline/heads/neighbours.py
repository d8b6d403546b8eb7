"""The nearest rows by cosine, in an order that belongs to the two rows alone.

A matrix product adds up a row in an order that depends on how many rows came with it. Here it only makes the shortlist:
where its error bound leaves the order in doubt, the rows are multiplied again one by one, each summed alone. So equal
rows are equally near, and a row by itself gets the answer that it gets in any batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK_VALUES = 1 << 23  # of similarities, and of rows in float64, at a time: 64 MB


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Rows `units` (n, d) of length 1 or of zeros. The cosine of two rows of zeros is 1, of one and another row 0."""

    units: Singles

    def nearest(self, queries: Singles, k: int) -> Ints:
        """(b, k) rows for queries (b, d) of length 1 or zeros, by (cosine falling, row rising); k of them at most n."""
        found = np.empty((len(queries), k), dtype=np.int64)
        step = max(1, _BLOCK_VALUES // len(self.units))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            found[part] = self._nearest(queries[part].astype(np.float64), k)
        return found

    def _nearest(self, queries: Doubles, k: int) -> Ints:
        kinds, kind_of = self._kinds
        similar = self._products(queries)[:, kind_of]
        # The k nearest, and the next: where two kinds of them are closer than their errors, the order is in doubt.
        ahead = in_order(similar, min(k + 1, similar.shape[1]))
        found = ahead[:, :k]
        values, kind = np.take_along_axis(similar, ahead, axis=1), kind_of[ahead]
        # A product of unit rows errs by at most d rounding units in any order of summation (Higham 2002, eq. 3.5).
        slack = 4 * (queries.shape[1] + 2) * np.finfo(np.float64).eps
        doubtful = (values[:, :-1] - values[:, 1:] <= slack) & (kind[:, :-1] != kind[:, 1:])
        doubtful &= np.any(queries, axis=1, keepdims=True)
        for i in np.flatnonzero(doubtful.any(axis=1)):
            near = np.flatnonzero(similar[i] >= values[i, k - 1] - slack)
            numbers, place = np.unique(kind_of[near], return_inverse=True)
            exact = self._one_by_one(queries[i], kinds[numbers])[place]
            found[i] = near[np.argsort(-exact, kind="stable")[:k]]
        return found

    @functools.cached_property
    def _kinds(self) -> tuple[Ints, Ints]:
        """(the first row of each kind of equal rows, the kind of each row)."""
        rows = np.ascontiguousarray(self.units)
        whole = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
        _, first, kind_of = np.unique(whole, return_index=True, return_inverse=True)
        return first, kind_of.reshape(-1)

    @functools.cached_property
    def _empty(self) -> NDArray[np.bool_]:
        """Of each kind, whether it is the row of zeros."""
        return np.asarray(np.abs(self.units[self._kinds[0]]).max(axis=1) == 0)

    def _products(self, queries: Doubles) -> Doubles:
        """(b, d) -> (b, kinds) cosines."""
        kinds, _ = self._kinds
        similar = np.empty((len(queries), len(kinds)))
        step = max(1, _BLOCK_VALUES // max(queries.shape[1], 1))
        for start in range(0, len(kinds), step):
            rows = self.units[kinds[start : start + step]].astype(np.float64)
            similar[:, start : start + step] = queries @ rows.T
        similar[np.ix_(~queries.any(axis=1), self._empty)] = 1.0
        return similar

    def _one_by_one(self, query: Doubles, rows: Ints) -> Doubles:
        """(m,) products of one query (d,), which is not of zeros."""
        found = np.empty(len(rows))
        step = max(1, _BLOCK_VALUES // len(query))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            found[part] = np.sum(self.units[rows[part]].astype(np.float64) * query, axis=1)
        return found


def unit_rows(x: Singles) -> Singles:
    """(n, d) rows brought to length 1, each by itself; rows of zeros stay."""
    wide = np.ascontiguousarray(x, dtype=np.float64)
    lengths = np.sqrt(np.add.reduce(wide * wide, axis=1, keepdims=True))
    units: Singles = (wide / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return units


def in_order(similar: NDArray[np.floating], k: int) -> Ints:
    """Columns of the k largest of each row (b, n), by (value falling, column rising): (b, k)."""
    if k >= similar.shape[1]:
        return np.argsort(-similar, axis=1, kind="stable")[:, :k].astype(np.int64)
    part = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    part.sort(axis=1)
    values = np.take_along_axis(similar, part, axis=1)
    found = np.take_along_axis(part, np.argsort(-values, axis=1, kind="stable"), axis=1)
    # Where more than k reach the k-th value, the partition kept some of the equal ones at will.
    tied = np.flatnonzero((similar >= values.min(axis=1, keepdims=True)).sum(axis=1) > k)
    found[tied] = np.argsort(-similar[tied], axis=1, kind="stable")[:, :k]
    return found.astype(np.int64)
