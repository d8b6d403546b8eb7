"""Float codes with a distance that belongs to the pair alone.

A matrix product adds up a row in an order that depends on what it is multiplied with, so equal codes would lie
unequally far and the order of the database would decide between them. Here distances are whole steps, the finest that
float32 holds over the whole range. Products are taken in float64, and the few whose error bound reaches over the edge
between two steps are summed again, each row alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.hashing.exact import blocks

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

_SUMMED_ROWS = 1024  # at a time, each alone


@dataclass(frozen=True)
class Points:
    """Codes (n, d), float16 or float32. The distance of x and y is half(x) + half(y) - x.y / (scale(x) scale(y)), of at
    most `reach`, where two codes that are `empty` have a product of 1.
    """

    codes: NDArray[Any]
    scale: Doubles  # (n,)
    half: Doubles  # (n,)
    empty: NDArray[np.bool_]  # (n,)
    reach: float

    @classmethod
    def cosine(cls, codes: NDArray[Any]) -> Self:
        """1 - cos, 0 to 2. A code of zeros has a direction of its own: at 0 from its equals, at 1 from all others."""
        codes = np.ascontiguousarray(codes)
        lengths = np.sqrt(_squares(codes))
        empty = lengths == 0
        return cls(codes, np.where(empty, 1.0, lengths), np.full(len(codes), 0.5), empty, 2.0)

    @classmethod
    def euclidean(cls, codes: NDArray[Any]) -> Self:
        """Half the squared Euclidean distance of codes in [0, 1]: half the Hamming distance if they are bits."""
        codes = np.ascontiguousarray(codes)
        halves = 0.5 * _squares(codes)
        return cls(codes, np.ones(len(codes)), halves, np.zeros(len(codes), np.bool_), codes.shape[1] / 2)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def step(self) -> float:
        """A power of 2, of which the distances are multiples that float32 holds exactly."""
        return float(2.0 ** (math.ceil(math.log2(self.reach)) - 24))

    def take(self, rows: slice | Ints | NDArray[np.bool_]) -> Points:
        """Those rows alone."""
        return Points(self.codes[rows], self.scale[rows], self.half[rows], self.empty[rows], self.reach)

    def to_rows(self, query: int, others: Points, rows: Ints) -> Floats:
        """(m,) distances of one point to rows (m,) of `others`, each row summed alone."""
        wide = self.codes[query].astype(np.float64)
        dots = np.empty(len(rows))
        for start in range(0, len(rows), _SUMMED_ROWS):
            part = slice(start, start + _SUMMED_ROWS)
            dots[part] = np.sum(others.codes[rows[part]].astype(np.float64) * wide, axis=1)
        dots /= self.scale[query] * others.scale[rows]
        dots += self.empty[query] & others.empty[rows]
        return self._rounded(np.rint((self.half[query] + others.half[rows] - dots) / self.step))

    def to_all(self, others: Points) -> Floats:
        """(n, m) distances to all of `others`, those of `to_rows` to the bit; float32 codes are the faster here."""
        distances = np.empty((len(self), len(others)), np.float32)
        near = self.codes.astype(np.float64)
        for rows in blocks(others.codes):
            self._to_block(near, others.take(rows), distances[:, rows])
        return distances

    def _to_block(self, near: Doubles, others: Points, out: Floats) -> None:
        steps = near @ others.codes.astype(np.float64).T
        steps /= self.scale[:, None] * others.scale
        steps[np.ix_(self.empty, others.empty)] = 1.0
        np.subtract(self.half[:, None] + others.half, steps, out=steps)
        steps /= self.step
        whole = np.rint(steps)
        out[:] = self._rounded(whole)
        steps -= whole
        doubtful = np.abs(steps, out=steps) > 0.5 - self._slack(others) / self.step
        for query in np.flatnonzero(doubtful.any(axis=1)).tolist():
            rows = np.flatnonzero(doubtful[query])
            out[query, rows] = self.to_rows(query, others, rows)

    def _slack(self, others: Points) -> Doubles:
        """(n, 1) by which a distance from a product and one from `to_rows` may differ. Each dot product errs by at most
        d/2 eps |x||y| whatever the order (Higham 2002, eq. 3.5), and |x||y| by the scales is at most half(x) + half(y).
        """
        eps, most = np.finfo(np.float64).eps, others.half.max(initial=0.0)
        slack: Doubles = (self.codes.shape[1] + 8) * eps * (self.half[:, None] + most)
        return slack

    def _rounded(self, steps: Doubles) -> Floats:
        distances: Floats = (steps * self.step).astype(np.float32)
        distances += 0.0  # -0.0 becomes 0.0
        return distances


def _squares(codes: NDArray[Any]) -> Doubles:
    """(n, d) -> (n,) squared lengths, each row summed alone."""
    squares = np.empty(len(codes))
    for part in blocks(codes):
        wide = codes[part].astype(np.float64)
        squares[part] = np.sum(wide * wide, axis=1)
    return squares
