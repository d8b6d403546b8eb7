"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.heads.base import Targets
from pipeline.heads.neighbours import Neighbours, unit_rows
from pipeline.heads.stream import Matrix

# Equal votes go to the class whose nearest voter is nearer: a nudge this small changes no other order for k <= 1000.
_NUDGE = 5e-4


@dataclass(frozen=True)
class Knn:
    """Votes of the k training rows of largest cosine; of equal cosines the earlier training row (the smaller id) votes.

    Equal rows have equal cosines, and a row by itself gets the answer that it gets in any batch (`Neighbours`).
    A score is the class's share of the votes, and up to 5e-4 / k more for the class whose nearest voter is nearest, so
    that equal shares never fall to the order of the class names. With balanced classes a vote weighs its class's
    weight. A row of zeros has cosine 1 with its like and 0 with others. Not probabilities: a share of 0 says little
    about the odds.
    """

    rows: Neighbours  # (n, d) training rows of length 1, in id order
    y: NDArray[np.int64]  # (n,)
    votes: NDArray[np.float32]  # (classes,) weight of a vote
    k: int

    parameter: ClassVar[str] = "k"
    probabilities: ClassVar[bool] = False
    rows_at_once: ClassVar[int | None] = 512
    unfinished: ClassVar[str] = ""

    @classmethod
    def fit(
        cls, rows: Matrix, targets: Targets, grid: Sequence[float], *, seed: int, so_far: SoFar = NOTHING
    ) -> list[Self]:
        """Raises UserError if some k exceeds the number of training rows."""
        too_large = sorted(int(k) for k in set(grid) if k > len(rows))
        if too_large:
            raise UserError(
                f"knn with k of {', '.join(map(str, too_large))} and {len(rows)} training images",
                allowed=f"k from 1 to {len(rows)}",
                see="heads.fit.k_grid in params.yaml",
            )
        order = np.argsort(rows.index, kind="stable")
        units = np.empty((len(rows), rows.dim), dtype=np.float32)
        for part, x in rows.blocks():
            units[part] = unit_rows(x)
        votes = targets.class_weights().astype(np.float32)
        held, y = Neighbours(units[order]), targets.y[order]
        return [cls(held, y, votes, int(k)) for k in grid]

    def scores(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._vote(self.rows.nearest(unit_rows(codes), self.k))

    def _vote(self, neighbours: NDArray[np.int64]) -> NDArray[np.float32]:
        """(b, k) training rows, nearest first -> (b, classes)."""
        voters = self.y[neighbours]
        weight = self.votes[voters]
        rows = np.broadcast_to(np.arange(len(voters))[:, None], voters.shape)
        shares = np.zeros((len(voters), len(self.votes)), dtype=np.float64)
        np.add.at(shares, (rows, voters), weight)
        shares /= weight.sum(axis=1, keepdims=True)
        first = np.full(shares.shape, np.inf)
        np.minimum.at(first, (rows, voters), np.broadcast_to(np.arange(1.0, self.k + 1), voters.shape))
        nudged: NDArray[np.float32] = (shares + _NUDGE / self.k / first).astype(np.float32)
        return nudged

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"units": self.rows.units, "y": self.y, "votes": self.votes, "k": np.array(self.k, dtype=np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls(Neighbours(arrays["units"]), arrays["y"], arrays["votes"], int(arrays["k"]))
