"""The sign of each principal component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.hashing import check
from pipeline.hashing.check import Codes
from pipeline.hashing.linear import Linear
from pipeline.hashing.principal import principal


@dataclass
class Pca(Linear):
    """bit j = whether the code lies above the mean along the j-th principal component."""

    seed: int = 0
    name: ClassVar[str] = "pca"

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Raises UserError if the codes can't span nbits directions. The seed matters above 2,048 dimensions only."""
        check.code_length(self.nbits, who=self.name)
        return self._through(*principal(codes, self.nbits, who=self.name, seed=self.seed))
