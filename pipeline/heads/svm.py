"""One-vs-rest linear SVM, L2 penalty and squared hinge, over a path of C.

The objective of one class is liblinear's: 0.5 ||w||^2 + C sum_i u_i max(0, 1 - y_i (w x_i + b))^2 with b inside ||w||
and y = +1 for the class, -1 for the rest. With balanced classes u is, as liblinear has it, the class's weight on its
own rows and 1 on the rest; two classes are told apart by one machine, in which each row weighs what its class does.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv, sposv
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.heads.base import LinearHead, Targets, shortfall
from pipeline.heads.newton import Curvature, Doubles, Floats, Point, Singles, Span, path, space_of
from pipeline.heads.stream import Matrix

TOLERANCE = 1e-5


@dataclass(frozen=True)
class SquaredHinge:
    """sum_i cost_i max(0, 1 - y_i f_i)^2; `signs` and `costs` (n, k)."""

    signs: Doubles
    costs: Doubles

    joint = False

    def value(self, scores: Doubles) -> Doubles:
        short = self._short(scores)
        values: Doubles = np.einsum("ij,ij,ij->j", self.costs, short, short)
        return values

    def slope(self, scores: Doubles) -> Doubles:
        return -2 * self.costs * self.signs * self._short(scores)

    def curvature(self, scores: Doubles) -> Curvature:
        bend = np.where(self._short(scores) > 0, 2 * self.costs, 0.0).astype(np.float32)

        def times(direction: Singles, rows: slice) -> Singles:
            return bend[rows] * direction

        return times

    def columns(self, which: NDArray[np.int64]) -> SquaredHinge:
        return SquaredHinge(self.signs[:, which], self.costs[:, which])

    def _short(self, scores: Doubles) -> Doubles:
        """How much each row lacks of margin 1, (n, k) >= 0."""
        return np.maximum(0.0, 1.0 - self.signs * scores)


@dataclass(frozen=True)
class SupportSystem:
    """Newton's point of a class from its support vectors S alone, the rows short of margin 1 (Chapelle 2007, eq. 13).

    (K_SS + diag(1 / (2 cost_S))) beta_S = y_S, and beta is 0 elsewhere. What is solved for is the step to that point
    from where we are: its right-hand side is known in float64 and shrinks as we come near, so that a float32 factor
    costs no accuracy in the end (iterative refinement).
    """

    gram: Singles
    loss: SquaredHinge

    def price(self, column: int, scores: Doubles) -> float:
        """What Cholesky's |S|^3 / 3 operations are in steps of 2 n^2, and 3 for copying out of K."""
        support = int((self.loss.signs[:, column] * scores < 1).sum())
        return support**3 / 3 / (2 * len(scores) ** 2) + 3

    def step(self, columns: NDArray[np.int64], at: Doubles, scores: Doubles, so_far: SoFar) -> Doubles:
        signs, half = self.loss.signs[:, columns], 0.5 / self.loss.costs[:, columns]
        support = signs * scores < 1
        # scores = K at, of which A at_S holds all but what the rows outside S still add.
        outside = self.gram @ np.where(support, 0.0, at).astype(np.float32)
        wanted = np.where(support, signs - scores - half * at + outside, 0.0)
        scale = np.sqrt((wanted**2).sum(axis=0))
        scale[scale == 0] = 1.0
        step, done = np.where(support, 0.0, -at), 0
        if (part_way := so_far.found()) is not None:
            done = part_way.values["done"]
            step[:, :done] = part_way.arrays["step"]

        def solve(i: int) -> None:
            rows = np.flatnonzero(support[:, i])
            if len(rows):
                step[rows, i] = self._solve(rows, half[rows, i], wanted[rows, i] / scale[i]) * scale[i]

        # A class a thread: LAPACK's own threads wait for each other more than they work on systems of this size.
        with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for solved, _ in enumerate(threads.map(solve, range(done, len(columns))), done + 1):
                so_far.keep(functools.partial(_solved, step, solved))
        return step

    def _solve(self, rows: NDArray[np.int64], ridge: Doubles, wanted: Doubles) -> Floats:
        """(K_SS + diag(ridge))^-1 wanted, in float32 where that holds, else in float64."""
        for dtype, posv in ((np.float32, sposv), (np.float64, dposv)):
            system: Floats = self.gram[np.ix_(rows, rows)].astype(dtype, copy=False)
            system[np.diag_indices_from(system)] += ridge
            # The transpose of a symmetric matrix is itself, in the order that LAPACK works on in place.
            _, found, info = posv(system.T, wanted.astype(dtype), overwrite_a=True)
            if info == 0:
                solution: Floats = found
                return solution
        raise np.linalg.LinAlgError(f"dposv: {info}; the rows are not finite")


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _solved(step: Doubles, columns: int) -> Part:
    """The first columns of a step; a later one may be in the making."""
    return Part({"step": step[:, :columns].copy()}, {"done": columns})


class Svm(LinearHead):
    """Scores are signed distances in units of the margin; those of two classes are each other's negatives."""

    @classmethod
    def fit(
        cls, rows: Matrix, targets: Targets, grid: Sequence[float], *, seed: int, so_far: SoFar = NOTHING
    ) -> list[Self]:
        fits = _fits(rows, targets, grid, TOLERANCE, so_far)
        return [cls.from_weights(w, shortfall(gap, TOLERANCE)) for w, gap in fits]


def svm_path(rows: Matrix, targets: Targets, grid: Sequence[float], *, tol: float = TOLERANCE) -> list[Doubles]:
    """Weights (d + 1, k) for each C of `grid`, each C started from the last smaller one."""
    return [weights for weights, _ in _fits(rows, targets, grid, tol)]


def _fits(
    rows: Matrix, targets: Targets, grid: Sequence[float], tol: float, so_far: SoFar = NOTHING
) -> list[tuple[Doubles, float]]:
    """(weights (d + 1, k), the largest relative gap of a class) for each C."""
    space = space_of(rows)
    signs, factors = _machines(targets)

    def loss_of(c: float) -> tuple[SquaredHinge, SupportSystem | None]:
        loss = SquaredHinge(signs, c * factors)
        return loss, SupportSystem(space.gram, loss) if isinstance(space, Span) else None

    found = path(space, loss_of, Point.zero(space, signs.shape[1]), grid, tol=tol, so_far=so_far)
    every = np.split(space.weights(np.concatenate([found[c][0] for c in grid], axis=1)), len(grid), axis=1)
    if targets.k == 2:
        every = [np.concatenate([-w, w], axis=1) for w in every]
    return [(w, float(found[c][1].max())) for c, w in zip(grid, every, strict=True)]


def _machines(targets: Targets) -> tuple[Doubles, Doubles]:
    """Signs and factors on C (n, machines): a class against the rest each, or of two classes the second's alone."""
    weights = targets.class_weights()
    if targets.k == 2:
        return np.where(targets.y == 1, 1.0, -1.0)[:, None], weights[targets.y][:, None]
    own = targets.y[:, None] == np.arange(targets.k)
    return np.where(own, 1.0, -1.0), np.where(own, weights, 1.0)
