"""What hashers that are one linear map have in common: bit = sign of codes @ weights + offset."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes, Float32, Float64
from pipeline.hashing.exact import signs


@dataclass
class Linear:
    """A hasher whose state is `weights` (d, nbits) and `offset` (nbits,). Members of the family write `fit`."""

    nbits: int = 64
    name: ClassVar[str] = "linear"
    _weights: Float32 | None = field(default=None, init=False, repr=False)
    _offset: Float64 | None = field(default=None, init=False, repr=False)

    def bits(self, codes: Codes) -> Bits:
        """(n, nbits) bool, of the exact sign (0 is not above 0)."""
        if self._weights is None or self._offset is None:
            raise check.unfitted(self.name)
        return signs(self._prepared(check.codes(codes, dim=len(self._weights))), self._weights, self._offset)

    def params(self) -> dict[str, Any]:
        """What was asked for, as JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned."""
        if self._weights is None or self._offset is None:
            raise check.unfitted(self.name)
        return {"weights": self._weights, "offset": self._offset}

    @classmethod
    def from_arrays(cls, params: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The inverse of `params` and `arrays`."""
        hasher = cls(**params)
        hasher._weights, hasher._offset = arrays["weights"], arrays["offset"]
        return hasher

    def _prepared(self, codes: Codes) -> Codes:
        return codes

    def _through(self, mean: Float64, weights: Float64) -> Self:
        """Takes the map (x - mean) @ weights, whose hyperplanes pass through `mean`."""
        self._weights = np.ascontiguousarray(weights, dtype=np.float32)
        self._offset = -(mean @ self._weights.astype(np.float64))
        return self
