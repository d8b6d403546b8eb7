"""The k largest activations of each image: bits of equal density."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes
from pipeline.hashing.exact import blocks


@dataclass
class TopK:
    """Sets the `k` largest values of each image, ties to the lower index, never one that is not above 0.

    With equal density Hamming distance ranks like overlap: no image is everyone's neighbour for setting few bits. An
    image with fewer than k activations above 0 sets only those.
    """

    k: int = 256
    name: ClassVar[str] = "topk"
    _dim: int = field(default=0, init=False, repr=False)

    @property
    def nbits(self) -> int:
        """The codes' dimension; 0 before `fit`."""
        return self._dim

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Remembers the dimension. Raises UserError if k is not within 1 and the dimension."""
        codes = check.training(codes, rows=1, who=self.name)
        check.code_length(codes.shape[1], who=self.name)
        if not 1 <= self.k <= codes.shape[1]:
            raise UserError(f"topk was asked for k = {self.k}", allowed=f"1 to {codes.shape[1]}, the codes' dimension")
        self._dim = codes.shape[1]
        return self

    def bits(self, codes: Codes) -> Bits:
        """(n, d) bool with at most k of each row set."""
        if not self._dim:
            raise check.unfitted(self.name)
        codes = check.codes(codes, dim=self._dim)
        bits = np.empty(codes.shape, dtype=np.bool_)
        for rows in blocks(codes):
            block = codes[rows]
            kth = np.partition(block, self._dim - self.k, axis=1)[:, self._dim - self.k, None]
            above = block > kth
            tied = block == kth
            # Of the values equal to the k-th, the first few by index fill what those above it leave.
            room = self.k - above.sum(axis=1, keepdims=True)
            bits[rows] = (above | (tied & (np.cumsum(tied, axis=1) <= room))) & (block > 0)
        return bits

    def params(self) -> dict[str, Any]:
        """What was asked for, as JSON."""
        return {"k": self.k}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned."""
        return {"dim": np.array(self._dim)}

    @classmethod
    def from_arrays(cls, params: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The inverse of `params` and `arrays`."""
        hasher = cls(**params)
        hasher._dim = int(arrays["dim"])
        return hasher
