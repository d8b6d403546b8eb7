"""The classical recipe: squash, rescale, cut at one half."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.base.errors import UserError
from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes, Float32
from pipeline.hashing.exact import blocks
from pipeline.hashing.state import Stateful

# tanh(x/2) > 1/2 exactly when x > ln 3. A numpy scalar, for a Python float would be rounded to the codes' own type.
THRESHOLD = np.float64(math.log(3))
_UNIT = 1e-3  # a float16 row of length 1 is this close to it


def soft_codes(codes: Codes) -> Float32:
    """(sigmoid(x) - 0.5) / 0.5 = tanh(x / 2), (n, d) float32; in [0, 1], as codes after the ReLU are not negative.

    Raises UserError if a code is negative.
    """
    result = np.empty(codes.shape, dtype=np.float32)
    for rows in blocks(codes):
        block = codes[rows]
        if (block < 0).any():
            raise UserError("codes hold negative values", allowed="values after the ReLU for a soft code in [0, 1]")
        result[rows] = (expit(block.astype(np.float64)) - 0.5) / 0.5
    return result


@dataclass
class Sigmoid(Stateful):
    """s = sigmoid(x), soft code (s - 0.5) / 0.5, bit = soft code > 0.5, that is x > ln 3. One bit a dimension."""

    name: ClassVar[str] = "sigmoid"

    @property
    def nbits(self) -> int:
        """The codes' dimension; 0 before `fit`."""
        return int(self._arrays["dim"]) if self._arrays else 0

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Remembers the dimension. Raises UserError on L2-normalised codes: none of their values would exceed ln 3."""
        codes = check.training(codes, rows=1, who=self.name)
        check.code_length(codes.shape[1], who=self.name)
        norms = _norms(codes)
        norms = norms[norms > 0]
        if len(norms) and bool((np.abs(norms - 1) < _UNIT).all()):
            raise _normalised()
        shortest = float(norms.min()) if len(norms) else 0.0
        self._arrays = {"dim": np.array(codes.shape[1]), "shortest": np.array(shortest)}
        return self

    def soft(self, codes: Codes) -> Float32:
        """(n, d) in [0, 1]: the code before it is cut at 0.5."""
        return soft_codes(self._checked(codes))

    def bits(self, codes: Codes) -> Bits:
        """(n, d) bool. Raises UserError on L2-normalised codes where those of `fit` were not."""
        return np.greater(self._checked(codes), THRESHOLD)

    def _checked(self, codes: Codes) -> Codes:
        learned = self.arrays()
        codes = check.codes(codes, dim=int(learned["dim"]))
        # A rule for each row, so that a row alone fares as in a batch; silent if real codes may be as short as 1.
        if learned["shortest"] > 1 + 10 * _UNIT and (np.abs(_norms(codes) - 1) < _UNIT).any():
            raise _normalised()
        return codes


def _norms(codes: Codes) -> NDArray[np.float64]:
    squares = [np.add.reduce(codes[rows].astype(np.float64) ** 2, axis=1) for rows in blocks(codes)]
    return np.sqrt(np.concatenate(squares)) if squares else np.empty(0)


def _normalised() -> UserError:
    return UserError(
        "the codes are L2-normalised, so none of their values can exceed ln 3 and every bit would be 0",
        allowed="codes without -l2, e.g. LAYER-flatten",
    )
