"""What hashers that are one linear map have in common: bit = sign of codes @ weights + offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes, Float64
from pipeline.hashing.exact import signs
from pipeline.hashing.state import Stateful


@dataclass
class Linear(Stateful):
    """A hasher whose state is `weights` (d, nbits) and `offset` (nbits,). Members of the family write `fit`."""

    nbits: int = 64
    name: ClassVar[str] = "linear"

    def bits(self, codes: Codes) -> Bits:
        """(n, nbits) bool, of the exact sign (0 is not above 0)."""
        learned = self.arrays()
        codes = self._prepared(check.codes(codes, dim=len(learned["weights"])))
        return signs(codes, learned["weights"], learned["offset"])

    def _prepared(self, codes: Codes) -> Codes:
        return codes

    def _through(self, mean: Float64, weights: Float64, offset: Float64 | float = 0.0) -> Self:
        """Takes the map (x - mean) @ weights + offset, whose hyperplanes pass through `mean` without an offset."""
        narrow = np.ascontiguousarray(weights, dtype=np.float32)
        self._arrays = {"weights": narrow, "offset": offset - mean @ narrow.astype(np.float64)}
        return self
