"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.heads.base import Targets
from pipeline.heads.stream import Rows

# Equal votes go to the class whose nearest voter is nearer: a nudge this small changes no other order for k <= 1000.
_NUDGE = 5e-4


@dataclass(frozen=True)
class Knn:
    """Votes of the k training rows of largest cosine; of equal cosines the earlier training row (the smaller id) votes.

    A score is the class's share of the votes, and up to 5e-4 / k more for the class whose nearest voter is nearest, so
    that equal shares never fall to the order of the class names. With balanced classes a vote weighs its class's
    weight. A row of zeros has cosine 0 with all. Not probabilities: a share of 0 says little about the odds.
    """

    units: NDArray[np.float32]  # (n, d) training rows of length 1, in id order
    y: NDArray[np.int64]  # (n,)
    votes: NDArray[np.float32]  # (classes,) weight of a vote
    k: int

    parameter: ClassVar[str] = "k"
    probabilities: ClassVar[bool] = False
    unfinished: ClassVar[str] = ""

    @classmethod
    def fit(cls, rows: Rows, targets: Targets, grid: Sequence[float], *, seed: int) -> list[Self]:
        """Raises UserError if some k exceeds the number of training rows."""
        too_large = sorted(int(k) for k in set(grid) if k > len(rows))
        if too_large:
            raise UserError(
                f"knn with k of {', '.join(map(str, too_large))} and {len(rows)} training images",
                allowed=f"k from 1 to {len(rows)}",
                see="heads.k_grid in params.yaml",
            )
        order = np.argsort(rows.index, kind="stable")
        units = np.empty((len(rows), rows.dim), dtype=np.float32)
        for part, x in rows.blocks():
            units[part] = _unit(x)
        votes = targets.class_weights().astype(np.float32)
        units, y = units[order], targets.y[order]
        return [cls(units, y, votes, int(k)) for k in grid]

    def scores(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty((len(codes), len(self.votes)), dtype=np.float32)
        # About 64 MB of similarities at a time.
        step = max(1, (16 << 20) // len(self.y))
        for start in range(0, len(codes), step):
            similar = _unit(codes[start : start + step]) @ self.units.T
            out[start : start + step] = self._vote(nearest(similar, self.k))
        return out

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
        return {"units": self.units, "y": self.y, "votes": self.votes, "k": np.array(self.k, dtype=np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls(arrays["units"], arrays["y"], arrays["votes"], int(arrays["k"]))


def nearest(similar: NDArray[np.floating[Any]], k: int) -> NDArray[np.int64]:
    """Columns of the k largest of each row (b, n), by (value falling, column rising): (b, k)."""
    if k >= similar.shape[1]:
        return np.argsort(-similar, axis=1, kind="stable")[:, :k].astype(np.int64)
    part = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    part.sort(axis=1)
    values = np.take_along_axis(similar, part, axis=1)
    found = np.take_along_axis(part, np.argsort(-values, axis=1, kind="stable"), axis=1)
    # Where more than k reach the k-th value, the partition kept some of the equal ones at will.
    tied = np.flatnonzero((similar >= values.min(axis=1, keepdims=True)).sum(axis=1) > k)
    found[tied] = np.argsort(-similar[tied], axis=1, kind="stable")[:, :k]
    return found.astype(np.int64)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    units: NDArray[np.float32] = np.divide(x, np.where(norm == 0, 1, norm), dtype=np.float32)
    return units
