"""How a row of codes is scaled before a head sees it; what is fitted is fitted on training rows alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError

Floats = NDArray[np.floating[Any]]
KINDS = ("l2", "standardise", "none")


def _empty() -> NDArray[np.float32]:
    return np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Scaling:
    """Maps raw codes (b, d) to scaled float32 codes (b, d).

    - `l2`: each row by its own norm; a row of zeros stays zeros.
    - `standardise`: (x - mean) / (std * sqrt(d)), mean and std of each column over the training rows. The sqrt(d) makes
      a row's mean squared norm 1, as after `l2`, so that one grid of C suits short and long codes. A constant column
      becomes 0.
    - `none`: float32, nothing else.
    """

    kind: str
    shift: NDArray[np.float32] = field(default_factory=_empty)  # (d,), standardise only
    factor: NDArray[np.float32] = field(default_factory=_empty)  # (d,), standardise only

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"scaling {self.kind!r} is unknown", allowed=KINDS)

    @classmethod
    def fit(cls, kind: str, blocks: Iterable[Floats]) -> Scaling:
        """`blocks` are raw training rows (b, d); they are read only for `standardise`, twice-over sums in float64."""
        if kind != "standardise":
            return cls(kind)
        n = 0
        mean = np.zeros(0)
        squares = np.zeros(0)
        for block in blocks:
            # Chan, Golub and LeVeque (1983): moments of blocks are joined without cancellation.
            x = np.asarray(block, dtype=np.float64)
            block_mean = x.mean(axis=0)
            block_squares = ((x - block_mean) ** 2).sum(axis=0)
            if n == 0:
                n, mean, squares = len(x), block_mean, block_squares
                continue
            total = n + len(x)
            delta = block_mean - mean
            squares += block_squares + delta**2 * (n * len(x) / total)
            mean += delta * (len(x) / total)
            n = total
        std = np.sqrt(squares / max(n, 1))
        # A column that is constant but for rounding carries nothing, and dividing by its noise would blow it up.
        constant = std <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
        factor = np.where(constant, 0.0, 1.0 / (np.where(constant, 1.0, std) * np.sqrt(max(len(mean), 1))))
        return cls(kind, mean.astype(np.float32), factor.astype(np.float32))

    def apply(self, codes: Floats) -> NDArray[np.float32]:
        """(b, d) raw codes -> (b, d) float32, a new array; a row's values don't depend on the rows beside it."""
        x = np.array(codes, dtype=np.float32, order="C")
        if self.kind == "l2":
            norm = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
            x *= (1.0 / np.where(norm == 0, 1.0, norm)).astype(np.float32)[:, None]
        elif self.kind == "standardise":
            x -= self.shift
            x *= self.factor
        return x
