"""Random hyperplanes (Charikar 2002)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.hashing import check
from pipeline.hashing.check import Codes
from pipeline.hashing.linear import Linear
from pipeline.hashing.principal import column_means


@dataclass
class Lsh(Linear):
    """`nbits` Gaussian directions. Two codes differ in a bit with probability angle / pi, seen from the mean.

    The hyperplanes pass through the mean of the training codes: codes after a ReLU all lie in one orthant, which
    hyperplanes through the origin hardly divide.
    """

    seed: int = 0
    name: ClassVar[str] = "lsh"

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Draws the directions; of the codes only their mean matters."""
        check.code_length(self.nbits, who=self.name)
        codes = check.training(codes, rows=1, who=self.name)
        directions = np.random.default_rng(self.seed).standard_normal((codes.shape[1], self.nbits))
        return self._through(column_means(codes), directions)
