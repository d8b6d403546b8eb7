"""The k largest activations of each image: bits of equal density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes
from pipeline.hashing.exact import blocks
from pipeline.hashing.state import Stateful


@dataclass
class TopK(Stateful):
    """Sets the `k` largest values of each image, ties to the lower index, never one that is not above 0.

    With equal density Hamming distance ranks like overlap: no image is everyone's neighbour for setting few bits. An
    image with fewer than k activations above 0 sets only those.
    """

    k: int = 256
    name: ClassVar[str] = "topk"

    @property
    def nbits(self) -> int:
        """The codes' dimension; 0 before `fit`."""
        return int(self._arrays["dim"]) if self._arrays else 0

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Remembers the dimension. Raises UserError if k is not within 1 and the dimension."""
        codes = check.training(codes, rows=1, who=self.name)
        check.code_length(codes.shape[1], who=self.name)
        if not 1 <= self.k <= codes.shape[1]:
            raise UserError(f"topk was asked for k = {self.k}", allowed=f"1 to {codes.shape[1]}, the codes' dimension")
        self._arrays = {"dim": np.array(codes.shape[1])}
        return self

    def bits(self, codes: Codes) -> Bits:
        """(n, d) bool with at most k of each row set."""
        dim = int(self.arrays()["dim"])
        codes = check.codes(codes, dim=dim)
        bits = np.empty(codes.shape, dtype=np.bool_)
        for rows in blocks(codes):
            block = codes[rows]
            kth = np.partition(block, dim - self.k, axis=1)[:, dim - self.k, None]
            above = block > kth
            tied = block == kth
            # Of the values equal to the k-th, the first few by index fill what those above it leave.
            room = self.k - above.sum(axis=1, keepdims=True)
            bits[rows] = (above | (tied & (np.cumsum(tied, axis=1) <= room))) & (block > 0)
        return bits
