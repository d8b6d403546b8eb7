"""Multinomial logistic regression with an L2, L1 or elastic-net penalty, over a path of C.

Objective: C sum_i u_i CE_i + penalty(W), the intercept penalised with the rest; u is the weight of the row's class.
Penalties: L2 0.5 ||W||^2; L1 ||W||_1; elastic net 0.25 ||W||^2 + 0.5 ||W||_1 (an even mixture).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.heads import proximal
from pipeline.heads.base import LinearHead, Targets, shortfall, softmax
from pipeline.heads.newton import Curvature, Doubles, Point, Singles, path, space_of
from pipeline.heads.proximal import Penalty
from pipeline.heads.stream import Matrix

TOLERANCE = 1e-5  # relative gap of the objective
ROUGH = 0.01  # the same of the sparse fits on the way to a C
STAIR = 10.0  # how much larger than the last C the next may be


@dataclass(frozen=True)
class CrossEntropy:
    """sum_i cost_i (log sum_j exp f_ij - f_i,y(i)); `onehot` (n, k), `costs` (n, 1)."""

    onehot: Doubles
    costs: Doubles

    joint = True

    def value(self, scores: Doubles) -> Doubles:
        top = scores.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scores - top).sum(axis=1, keepdims=True)) + top
        own = np.einsum("ij,ij->i", self.onehot, scores)[:, None]
        return np.atleast_1d((self.costs * (log_sum - own)).sum())

    def slope(self, scores: Doubles) -> Doubles:
        slope: Doubles = self.costs * (softmax(scores) - self.onehot)
        return slope

    def curvature(self, scores: Doubles) -> Curvature:
        shares = softmax(scores).astype(np.float32)
        costs = self.costs.astype(np.float32)

        def times(direction: Singles, rows: slice) -> Singles:
            p = shares[rows]
            weighted = p * direction
            weighted -= p * weighted.sum(axis=1, keepdims=True)
            weighted *= costs[rows]
            return weighted

        return times

    def conjugate(self, scores: Doubles, share: float) -> float:
        mixed = self.onehot + share * (softmax(scores) - self.onehot)
        return float((self.costs * xlogy(mixed, mixed)).sum())

    def columns(self, which: NDArray[np.int64]) -> CrossEntropy:
        raise NotImplementedError("the classes of a softmax are coupled")


def _loss(targets: Targets, c: float) -> CrossEntropy:
    onehot = (targets.y[:, None] == np.arange(targets.k)).astype(np.float64)
    return CrossEntropy(onehot, c * targets.class_weights()[targets.y][:, None])


class _SoftmaxHead(LinearHead):
    probabilities: ClassVar[bool] = True

    def scores(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        return softmax(super().scores(codes))


class Softmax(_SoftmaxHead):
    """L2 penalty, by Newton's method."""

    @classmethod
    def fit(
        cls, rows: Matrix, targets: Targets, grid: Sequence[float], *, seed: int, so_far: SoFar = NOTHING
    ) -> list[Self]:
        space = space_of(rows)
        start = Point.zero(space, targets.k)
        found = path(space, lambda c: (_loss(targets, c), None), start, grid, tol=TOLERANCE, so_far=so_far)
        every = space.weights(np.concatenate([found[c][0] for c in grid], axis=1))
        paths = zip(grid, np.split(every, len(grid), axis=1), strict=True)
        return [cls.from_weights(w, shortfall(float(found[c][1].max()), TOLERANCE)) for c, w in paths]


class SparseSoftmax(_SoftmaxHead):
    """A penalty with an L1 part, by a proximal Newton method."""

    penalty: ClassVar[Penalty]

    @classmethod
    def fit(
        cls, rows: Matrix, targets: Targets, grid: Sequence[float], *, seed: int, so_far: SoFar = NOTHING
    ) -> list[Self]:
        at = np.zeros((rows.dim + 1, targets.k))
        # Up to this C every weight is 0.
        steepest = float(np.abs(rows.lift(_loss(targets, 1.0).slope(rows.scores(at)))).max())
        reached = cls.penalty.l1 / steepest if steepest > 0 else np.inf
        found: dict[float, Self] = {}
        rising = sorted(set(grid))

        def keep() -> None:
            heads = tuple(found.values())
            so_far.keep(functools.partial(cls.kept, heads, at=at, reached=np.array(reached)))

        if (part_way := so_far.found()) is not None:
            at, reached = part_way.arrays["at"], float(part_way.arrays["reached"])
            found = dict(zip(rising, cls.taken(part_way), strict=False))
        within = so_far.part("point")
        for c in rising[len(found) :]:
            # From far below, the first models promise too much: a few rough fits on the way are the shorter way.
            while reached * STAIR < c:
                reached *= STAIR
                at, _ = proximal.minimise(rows, _loss(targets, reached), at, cls.penalty, tol=ROUGH, so_far=within)
                keep()
            at, gap = proximal.minimise(rows, _loss(targets, c), at, cls.penalty, tol=TOLERANCE, so_far=within)
            found[c] = cls.from_weights(at, shortfall(gap, TOLERANCE))
            reached = max(reached, c)
            keep()
        return [found[c] for c in grid]


class SoftmaxL1(SparseSoftmax):
    penalty = Penalty(1.0, 0.0)


class SoftmaxElastic(SparseSoftmax):
    penalty = Penalty(0.5, 0.5)
