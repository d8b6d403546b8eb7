"""A proximal Newton method for linear models with an L1 or elastic-net penalty, all classes at once.

Minimises, over weights W (d + 1, k) whose last row is the intercept,

    l1 ||W||_1 + 0.5 l2 ||W||^2 + loss(F),   F = [X 1] W   (n, k)

by a quadratic model of all but the L1 term at each point (Lee, Sun and Saunders 2014), with a ridge that grows where
the model promised too much and shrinks where it held (Levenberg and Marquardt). A model's minimum is sought in turns: a
proximal gradient step chooses which weights are zero, and conjugate gradients solve for the others, whose signs are
kept (as in Keskar, Nocedal, Oztoprak and Waechter 2016). A model sees only the features that are in use or want to be:
its products are with those columns of X alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.heads.newton import Curvature, Doubles, Loss
from pipeline.heads.stream import Matrix

MAX_STEPS = 200
MAX_TURNS = 20  # of one model
MAX_CG = 30  # of one turn
FORCING = 0.1  # relative length to which a model's subgradient is brought down
CROSSED = 0.01  # share of the signs that conjugate gradients may cross before they stop
REACH = 10.0  # times 1 + ||W||, how far one step may go: where rows are told apart for sure, a model is all but flat
_TINY = float(np.finfo(np.float32).tiny)


class DualLoss(Loss, Protocol):
    """A joint loss that knows its Fenchel conjugate."""

    def conjugate(self, scores: Doubles, share: float) -> float:
        """Of `share` times the slope at `scores`, share in [0, 1]."""


@dataclass(frozen=True)
class Penalty:
    """l1 ||W||_1 + 0.5 l2 ||W||^2."""

    l1: float
    l2: float

    def value(self, at: Doubles) -> float:
        return self.l1 * float(np.abs(at).sum()) + 0.5 * self.l2 * float((at**2).sum())

    def lower_bound(self, loss: DualLoss, scores: Doubles, slope: Doubles) -> float:
        """Of the objective: Fenchel's dual at a share of the loss's slope, whose lift is `slope`.

        Without an L2 part the dual asks for |slope| <= l1, which the share grants.
        """
        excess = np.maximum(np.abs(slope) - self.l1, 0)
        if self.l2:
            return -loss.conjugate(scores, 1.0) - float((excess**2).sum()) / (2 * self.l2)
        return -loss.conjugate(scores, self.l1 / (self.l1 + float(excess.max())))


def minimise(
    rows: Matrix, loss: DualLoss, start: Doubles, penalty: Penalty, *, tol: float, so_far: SoFar = NOTHING
) -> tuple[Doubles, float]:
    """(weights (d + 1, k), their relative duality gap): at most `tol`, or it was not reached in `MAX_STEPS`."""

    def objective(weights: Doubles) -> tuple[Doubles, float]:
        scores = rows.scores(weights)
        return scores, float(loss.value(scores)[0]) + penalty.value(weights)

    at, ridge, gap, first = start, 0.0, np.inf, 0
    if (part_way := so_far.found()) is not None:
        at, ridge, first = part_way.arrays["at"], part_way.values["ridge"], part_way.values["step"]
    scores, value = objective(at)
    for step in range(first, MAX_STEPS):
        slope = rows.lift(loss.slope(scores))
        gap = (value - penalty.lower_bound(loss, scores, slope)) / max(value, _TINY)
        if gap <= tol:
            break
        used = ((at != 0) | (np.abs(slope) > penalty.l1)).any(axis=1)
        used[-1] = True
        model = _Model(
            rows.columns(np.flatnonzero(used[:-1])),
            loss.curvature(scores),
            (slope + penalty.l2 * at)[used],
            penalty.l1,
            penalty.l2 + ridge,
        )
        near, promised = model.minimum(at[used], so_far.part("model"))
        new = at.copy()
        new[used] = near
        new_scores, new_value = objective(new)
        held = (value - new_value) / promised if promised > 0 else 0.0
        if held < 0.25:
            ridge = max(4 * ridge, 1e-3 * model.mean_curvature)
        elif held > 0.75:
            ridge /= 4
        if new_value < value:
            at, scores, value = new, new_scores, new_value
        so_far.keep(functools.partial(Part, {"at": at}, {"ridge": ridge, "step": step + 1}))
    return at, gap


class _Model:
    """<G, Z - W> + 0.5 <Z - W, (H + ridge)(Z - W)> + l1 ||Z||_1 about W; H is the lift of `curvature`."""

    def __init__(self, rows: Matrix, curvature: Curvature, gradient: Doubles, l1: float, ridge: float) -> None:
        self.rows, self.curvature, self.gradient, self.l1, self.ridge = rows, curvature, gradient, l1, ridge
        self.mean_curvature = 0.0  # along the first step

    def minimum(self, start: Doubles, so_far: SoFar) -> tuple[Doubles, float]:
        """(Z near the minimum, by how much it is below `start`)."""
        at, gradient, gained, first = start, self.gradient, 0.0, 0
        goal = FORCING * float(np.linalg.norm(self._subgradient(at, gradient)))
        if (part_way := so_far.found()) is not None:
            at, gradient = part_way.arrays["at"], part_way.arrays["gradient"]
            gained, self.mean_curvature, first = (part_way.values[n] for n in ("gained", "mean_curvature", "turn"))
        for turn in range(first, MAX_TURNS):
            downhill = -self._subgradient(at, gradient)
            square = float((downhill**2).sum())
            if np.sqrt(square) <= goal:
                break
            curvature = max(float((downhill * self._times(downhill)).sum()) / square, _TINY)
            if turn == 0:
                self.mean_curvature = curvature
            longest = REACH * (1 + float(np.linalg.norm(at))) / float(np.sqrt(square))
            lengths = 0.25 ** np.arange(10) * min(1 / curvature, longest)
            at, gradient, chosen = self._first_lower(
                at, gradient, (_shrink(at - t * gradient, t * self.l1) for t in lengths)
            )
            signs = np.sign(at)
            step = self._conjugate_gradients(at, np.where(signs != 0, -(gradient + self.l1 * signs), 0.0))
            ahead = (at + t * step for t in 0.5 ** np.arange(10))
            at, gradient, solved = self._first_lower(
                at, gradient, (np.where(np.sign(new) == signs, new, 0.0) for new in ahead)
            )
            gained += chosen + solved
            if chosen + solved == 0:
                break
            values = {"gained": gained, "mean_curvature": self.mean_curvature, "turn": turn + 1}
            so_far.keep(functools.partial(Part, {"at": at, "gradient": gradient}, values))
        return at, gained

    def _times(self, direction: Doubles) -> Doubles:
        """(H + ridge) times it; H's part in float32."""
        bent: Doubles = self.rows.curved(direction.astype(np.float32), self.curvature)[0] + self.ridge * direction
        return bent

    def _subgradient(self, at: Doubles, gradient: Doubles) -> Doubles:
        """The shortest one."""
        sides = np.where(at != 0, np.sign(at), -np.clip(gradient / self.l1, -1, 1))
        shortest: Doubles = gradient + self.l1 * sides
        return shortest

    def _first_lower(
        self, at: Doubles, gradient: Doubles, candidates: Iterable[Doubles]
    ) -> tuple[Doubles, Doubles, float]:
        """The first candidate with a lower value, its gradient and what it gains; `at` if there is none."""
        for new in candidates:
            step = new - at
            bent = self._times(step)
            grown = self.l1 * float(np.abs(new).sum() - np.abs(at).sum())
            gain = -(float((gradient * step).sum()) + grown + 0.5 * float((step * bent).sum()))
            if gain > 0:
                return new, gradient + bent, gain
        return at, gradient, 0.0

    def _conjugate_gradients(self, at: Doubles, residual: Doubles) -> Doubles:
        """The step that solves (H + ridge) step = residual on the weights that are not zero.

        Classes may all move alike without moving a score, so the system can be singular: a step that crosses many
        signs has gone as far as the model's face reaches.
        """
        face, reach = at != 0, REACH * (1 + float(np.linalg.norm(at)))
        step, p = np.zeros_like(residual), residual
        square = float((residual**2).sum())
        goal = FORCING**2 * square
        for _ in range(MAX_CG):
            if square <= goal:
                break
            hp = self._times(p)
            php = float((p * hp).sum())
            if php <= 0:
                break
            longer = step + square / php * p
            if np.linalg.norm(longer) > reach:
                break
            step = longer
            if (np.sign(at + step) != np.sign(at))[face].sum() > CROSSED * face.sum():
                break
            residual = np.where(face, residual - square / php * hp, 0.0)
            new = float((residual**2).sum())
            p, square = residual + new / square * p, new
        return step


def _shrink(values: Doubles, by: float) -> Doubles:
    nearer: Doubles = np.sign(values) * np.maximum(np.abs(values) - by, 0.0)
    return nearer
