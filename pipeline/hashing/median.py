"""One threshold a dimension: its median over the training codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes, Float32

_COLUMNS = 1024  # sorted at a time


@dataclass
class Median:
    """bit = value > median of its dimension, so that each bit is set in at most half of the training images.

    Where more than half of the values are 0, as is common after a ReLU, the bit says whether the unit is active.
    """

    name: ClassVar[str] = "median"
    _medians: Float32 | None = field(default=None, init=False, repr=False)

    @property
    def nbits(self) -> int:
        """The codes' dimension; 0 before `fit`."""
        return 0 if self._medians is None else len(self._medians)

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Takes each dimension's lower median, a value that occurs."""
        codes = check.training(codes, rows=2, who=self.name)
        dim = check.code_length(codes.shape[1], who=self.name)
        middle = (len(codes) - 1) // 2
        columns = (codes[:, start : start + _COLUMNS] for start in range(0, dim, _COLUMNS))
        self._medians = np.concatenate([np.partition(c, middle, axis=0)[middle] for c in columns]).astype(np.float32)
        return self

    def bits(self, codes: Codes) -> Bits:
        """(n, d) bool."""
        if self._medians is None:
            raise check.unfitted(self.name)
        return np.greater(check.codes(codes, dim=self.nbits), self._medians)

    def params(self) -> dict[str, Any]:
        """What was asked for, as JSON."""
        return {}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned."""
        if self._medians is None:
            raise check.unfitted(self.name)
        return {"medians": self._medians}

    @classmethod
    def from_arrays(cls, params: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The inverse of `params` and `arrays`."""
        hasher = cls(**params)
        hasher._medians = arrays["medians"]
        return hasher
