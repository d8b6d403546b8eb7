"""One threshold a dimension: its median over the training codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes, Float32
from pipeline.hashing.state import Stateful

_COLUMNS = 1024  # sorted at a time


@dataclass
class Median(Stateful):
    """bit = value > median of its dimension, so that each bit is set in at most half of the training images.

    Where more than half of the values are 0, as is common after a ReLU, the bit says whether the unit is active.
    """

    name: ClassVar[str] = "median"

    @property
    def nbits(self) -> int:
        """The codes' dimension; 0 before `fit`."""
        return len(self._arrays["medians"]) if self._arrays else 0

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Takes each dimension's lower median, a value that occurs."""
        codes = check.training(codes, rows=2, who=self.name)
        dim = check.code_length(codes.shape[1], who=self.name)
        middle = (len(codes) - 1) // 2
        columns = (codes[:, start : start + _COLUMNS] for start in range(0, dim, _COLUMNS))
        medians = np.concatenate([np.partition(c, middle, axis=0)[middle] for c in columns]).astype(np.float32)
        self._arrays = {"medians": medians}
        return self

    def bits(self, codes: Codes) -> Bits:
        """(n, d) bool."""
        medians: Float32 = self.arrays()["medians"]
        return np.greater(check.codes(codes, dim=len(medians)), medians)
