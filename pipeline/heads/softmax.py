"""Multinomial logistic regression with an L2, L1 or elastic-net penalty, over a path of C.

Objective: C sum_i u_i CE_i + penalty(W), the intercept penalised with the rest; u is the weight of the row's class.
Penalties: L2 0.5 ||W||^2; L1 ||W||_1; elastic net 0.25 ||W||^2 + 0.5 ||W||_1 (an even mixture).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.base import LinearHead, Targets, softmax
from pipeline.heads.newton import Curvature, Doubles, Point, Singles, minimise, space_of
from pipeline.heads.stream import Rows

log = logging.getLogger(__name__)

TOLERANCE = 1e-5  # L2: relative gap of the objective
GAP = 1e-4  # L1, elastic net: relative duality gap
MAX_PROXIMAL = 2000


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
    def fit(cls, rows: Rows, targets: Targets, grid: Sequence[float], *, seed: int) -> list[Self]:
        space = space_of(rows)
        point = Point.zero(space, targets.k)
        found: dict[float, Doubles] = {}
        for c in sorted(set(grid)):
            point = minimise(space, _loss(targets, c), point, tol=TOLERANCE, what=f"softmax, C={c:g}")
            found[c] = point.at
        every = space.weights(np.concatenate([found[c] for c in grid], axis=1))
        return [cls.from_weights(w) for w in np.split(every, len(grid), axis=1)]


class SparseSoftmax(_SoftmaxHead):
    """A penalty with an L1 part, by accelerated proximal gradients (Beck and Teboulle 2009, FISTA).

    Momentum is dropped whenever it points uphill (O'Donoghue and Candes 2015, eq. 12).
    """

    l1: ClassVar[float]
    l2: ClassVar[float]

    @classmethod
    def fit(cls, rows: Rows, targets: Targets, grid: Sequence[float], *, seed: int) -> list[Self]:
        spectral = _largest_eigenvalue(rows, seed)
        weights = np.zeros((rows.dim + 1, targets.k), dtype=np.float32)
        found: dict[float, NDArray[np.float32]] = {}
        for c in sorted(set(grid)):
            weights = _fista(
                rows,
                _loss(targets, c),
                weights,
                l1=cls.l1,
                l2=cls.l2,
                spectral=spectral,
                what=f"sparse softmax, C={c:g}",
            )
            found[c] = weights
        return [cls.from_weights(found[c]) for c in grid]


class SoftmaxL1(SparseSoftmax):
    l1, l2 = 1.0, 0.0


class SoftmaxElastic(SparseSoftmax):
    l1, l2 = 0.5, 0.5


def _fista(
    rows: Rows, loss: CrossEntropy, start: Singles, *, l1: float, l2: float, spectral: float, what: str
) -> Singles:
    """Weights (d + 1, k) whose duality gap is at most GAP of the objective."""
    # The Hessian of the cross-entropy in its scores is at most 1/2 (Boehning 1992).
    step = 1.0 / (0.5 * float(loss.costs.max()) * spectral + l2)
    at, ahead, momentum, gap = start, start, 1.0, np.inf
    for _ in range(MAX_PROXIMAL):
        scores = rows.scores(ahead).astype(np.float64)
        slope = rows.lift(loss.slope(scores).astype(np.float32))
        moved = ahead - step * (slope + l2 * ahead)
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * l1, 0)
        value = float(loss.value(scores)[0]) + l1 * float(np.abs(ahead).sum()) + 0.5 * l2 * float((ahead**2).sum())
        gap = (value - _dual(loss, scores, slope, l1=l1, l2=l2)) / value
        if gap <= GAP:
            return new
        if float(np.vdot(ahead - new, new - at)) > 0:
            momentum = 1.0
        following = 0.5 * (1 + np.sqrt(1 + 4 * momentum**2))
        ahead = (new + (momentum - 1) / following * (new - at)).astype(np.float32)
        at, momentum = new, following
    log.warning("%s: stopped after %d proximal steps with a relative gap of %.1e", what, MAX_PROXIMAL, gap)
    return at


def _dual(loss: CrossEntropy, scores: Doubles, slope: Singles, *, l1: float, l2: float) -> float:
    """A lower bound of the objective: Fenchel's dual at s (softmax(scores) - onehot), `slope` its lift at s = 1.

    Without an L2 part the dual asks for |slope| <= l1, which the factor s grants.
    """
    largest = float(np.abs(slope).max())
    s = 1.0 if l2 or largest <= l1 else l1 / largest
    mixed = loss.onehot + s * (softmax(scores) - loss.onehot)
    entropy = -(loss.costs * mixed * np.log(np.maximum(mixed, np.finfo(np.float64).tiny))).sum()
    conjugate = float((np.maximum(np.abs(slope) - l1, 0) ** 2).sum()) / (2 * l2) if l2 else 0.0
    return float(entropy) - conjugate


def _largest_eigenvalue(rows: Rows, seed: int) -> float:
    """Of [X 1]^T [X 1], from above by 2 %, after 20 steps of the power method."""
    vector = np.random.default_rng(seed).standard_normal((rows.dim + 1, 1)).astype(np.float32)
    value = 1.0
    for _ in range(20):
        vector /= np.linalg.norm(vector)
        vector = rows.lift(rows.scores(vector))
        value = float(np.linalg.norm(vector))
    return 1.02 * value
