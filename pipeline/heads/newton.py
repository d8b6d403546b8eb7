"""Newton's method for linear models with an L2 penalty, all classes at once as matrix products.

Minimises, over weights W (d + 1, k) whose last row is the intercept,

    0.5 ||W||^2 + loss(F),   F = [X 1] W   (n, k)

The intercept is penalised with the rest, as in liblinear with intercept_scaling = 1. Two spaces hold W:

- `Weights`: W itself; one pass over X a product.
- `Span`: by the representer theorem W = [X 1]^T beta, so the n x n Gram matrix K replaces X for every C and class
  (Chapelle 2007, "Training a support vector machine in the primal"). With the inner product <a, b> = a^T K b the
  gradient is beta + loss'(F) and the Hessian I + loss'' K: no factor of K is needed and a step of conjugate gradients
  costs one product with K.

Newton's equations are solved to a tenth by conjugate gradients in float32; the points between steps are float64. Where
`loss` can name an exact solution of one column (`Exact`), a column takes it as soon as conjugate gradients have cost as
much: never more than twice the better of the two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.heads.stream import Matrix

Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]
Curvature = Callable[[Singles, slice], Singles]

FORCING = 0.1  # relative residual to which Newton's equations are solved
MAX_NEWTON = 100
MAX_CG = 200
# Up to this many rows the Gram matrix is the cheaper space even when rows are short.
SPAN_ROWS = 4096


class Loss(Protocol):
    """A convex loss of the scores F (n, k). `joint`: columns are coupled, and sums run over all of them."""

    joint: bool

    def value(self, scores: Doubles) -> Doubles:
        """(k,) one a column, or (1,) if joint."""

    def slope(self, scores: Doubles) -> Doubles:
        """dloss/dF, (n, k)."""

    def curvature(self, scores: Doubles) -> Curvature:
        """The Hessian at `scores`: maps a direction's rows (b, k) and which rows they are to (b, k)."""

    def columns(self, which: NDArray[np.int64]) -> Loss:
        """The loss of those columns alone; never called if joint."""


class Exact(Protocol):
    """Newton's points in `Span`, solved directly."""

    def price(self, column: int, scores: Doubles) -> float:
        """What it costs, in steps of conjugate gradients; scores (n,)."""

    def step(self, columns: NDArray[np.int64], at: Doubles, scores: Doubles, so_far: SoFar) -> Doubles:
        """Newton's step (n, columns) from beta `at` with its `scores`, both (n, columns)."""


class Space(Protocol):
    """Where W lives; m coordinates a column. `image` is a vector's scores where products are taken through them."""

    n: int
    m: int

    def scores(self, at: Doubles) -> Doubles: ...
    def lift(self, slope: Doubles) -> Doubles: ...
    def dot(self, a: Floats, b: Floats, scores_b: Floats | None) -> Doubles: ...
    def image(self, residual: Singles) -> Singles | None: ...
    def hessian(self, p: Singles, image: Singles | None, curvature: Curvature) -> tuple[Singles, Singles]: ...
    def weights(self, at: Doubles) -> Doubles: ...


@dataclass
class Point:
    """`at` (m, k) in its space and its `scores` (n, k); `gap` bounds (objective - optimum) / objective a column."""

    at: Doubles
    scores: Doubles
    gap: Doubles
    direct: NDArray[np.bool_]  # (k,) columns for which the exact solution has been the cheaper

    @classmethod
    def zero(cls, space: Space, k: int) -> Point:
        return cls(np.zeros((space.m, k)), np.zeros((space.n, k)), np.full(k, np.inf), np.zeros(k, dtype=bool))

    def copy(self) -> Point:
        return Point(self.at.copy(), self.scores.copy(), self.gap.copy(), self.direct.copy())

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"at": self.at, "scores": self.scores, "gap": self.gap, "direct": self.direct}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Point:
        """The inverse of `arrays`, of which there may be more."""
        return cls(*(np.array(arrays[name], order="C") for name in ("at", "scores", "gap", "direct")))


class Span:
    """Coordinates beta (n, k) over the rows."""

    def __init__(self, rows: Matrix) -> None:
        self.rows = rows
        self.n = self.m = len(rows)
        self.gram = rows.gram()
        self.wide = self.gram.astype(np.float64)

    def scores(self, at: Doubles) -> Doubles:
        return self.wide @ at

    def lift(self, slope: Doubles) -> Doubles:
        return slope

    def dot(self, a: Floats, b: Floats, scores_b: Floats | None) -> Doubles:
        assert scores_b is not None
        return _sums(a, scores_b)

    def image(self, residual: Singles) -> Singles | None:
        return self.gram @ residual

    def hessian(self, p: Singles, image: Singles | None, curvature: Curvature) -> tuple[Singles, Singles]:
        assert image is not None
        return p + curvature(image, slice(0, self.n)), image

    def weights(self, at: Doubles) -> Doubles:
        return self.rows.lift(at)


class Weights:
    """Coordinates W (d + 1, k) themselves."""

    def __init__(self, rows: Matrix) -> None:
        self.rows = rows
        self.n, self.m = len(rows), rows.dim + 1

    def scores(self, at: Doubles) -> Doubles:
        return self.rows.scores(at)

    def lift(self, slope: Doubles) -> Doubles:
        return self.rows.lift(slope)

    def dot(self, a: Floats, b: Floats, scores_b: Floats | None) -> Doubles:
        return _sums(a, b)

    def image(self, residual: Singles) -> Singles | None:
        return None

    def hessian(self, p: Singles, image: Singles | None, curvature: Curvature) -> tuple[Singles, Singles]:
        product, scores = self.rows.curved(p, curvature)
        return p + product, scores

    def weights(self, at: Doubles) -> Doubles:
        return at


def space_of(rows: Matrix) -> Span | Weights:
    """`Span` where the Gram matrix fits, in both precisions, and is the cheaper matrix to pass over."""
    n = len(rows)
    fits = n * n * 12 <= rows.memory_bytes
    return Span(rows) if fits and (n <= SPAN_ROWS or n <= rows.dim + 1 or rows.streamed) else Weights(rows)


@dataclass
class _Columns:
    """The columns that are not there yet, at one Newton step."""

    live: NDArray[np.int64]  # their numbers
    loss: Loss
    at: Doubles  # (m, live)
    scores: Doubles  # (n, live)
    scale: Doubles  # the gradient's length, so that `residual` = -gradient / scale suits float32
    residual: Singles  # (m, live)
    image: Singles | None  # (n, live)

    def pick(self, which: NDArray[Any]) -> _Columns:
        """Those columns alone; a joint loss has no columns of its own."""
        if self.loss.joint or (which.dtype == bool and which.all()):
            return self
        numbers = np.flatnonzero(which) if which.dtype == bool else which
        return _Columns(
            self.live[numbers],
            self.loss.columns(numbers),
            self.at[:, numbers],
            self.scores[:, numbers],
            self.scale[numbers],
            self.residual[:, numbers],
            None if self.image is None else self.image[:, numbers],
        )


def path(
    space: Space,
    loss_of: Callable[[float], tuple[Loss, Exact | None]],
    start: Point,
    grid: Sequence[float],
    *,
    tol: float,
    so_far: SoFar,
) -> dict[float, tuple[Doubles, Doubles]]:
    """C -> `at` and `gap` of its minimum (`Point`), each C started from the last smaller one."""
    found: dict[float, tuple[Doubles, Doubles]] = {}
    point, rising = start, sorted(set(grid))
    if (part_way := so_far.found()) is not None:
        point = Point.of(part_way.arrays)
        for i, c in enumerate(rising[: part_way.values["done"]]):
            found[c] = part_way.arrays[f"at{i}"], part_way.arrays[f"gap{i}"]
    for c in rising[len(found) :]:
        loss, exact = loss_of(c)
        point = minimise(space, loss, point, tol=tol, exact=exact, so_far=so_far.part("point"))
        found[c] = point.at, point.gap
        so_far.keep(functools.partial(_path_part, point, list(found.values())))
    return found


def _path_part(point: Point, found: Sequence[tuple[Doubles, Doubles]]) -> Part:
    """Scores of the last C alone: the next begins with them."""
    arrays = {f"at{i}": at for i, (at, _) in enumerate(found)} | {f"gap{i}": gap for i, (_, gap) in enumerate(found)}
    return Part({**arrays, **point.arrays()}, {"done": len(found)})


def minimise(
    space: Space, loss: Loss, start: Point, *, tol: float, exact: Exact | None = None, so_far: SoFar = NOTHING
) -> Point:
    """The minimum from `start`, to a relative gap of at most `tol` in each column.

    The objective is 1-strongly convex, so the gap is at most ||gradient||^2 / 2, which for the squared hinge is the
    duality gap as well. The point's `gap` tells what did not get there in `MAX_NEWTON` steps.
    """
    now = start.copy()
    every = np.arange(now.at.shape[1])
    live, first = every, 0
    if (part_way := so_far.found()) is not None:
        now, live, first = Point.of(part_way.arrays), part_way.arrays["live"], part_way.values["step"]
    for number in range(first, MAX_NEWTON):
        part = loss if len(live) == len(every) else loss.columns(live)
        at, scores = now.at[:, live], now.scores[:, live]
        gradient = at + space.lift(part.slope(scores))
        value = 0.5 * _fold(part, space.dot(at, at, scores)) + part.value(scores)
        scale = np.sqrt(_fold(part, _sums(gradient, gradient)))
        scale[scale == 0] = 1.0
        residual = (-gradient / scale).astype(np.float32)
        image = space.image(residual)
        norm2 = np.maximum(_fold(part, space.dot(residual, residual, image)), 0.0)
        gap = 0.5 * norm2 * scale**2 / np.maximum(value, np.finfo(np.float64).tiny)
        now.gap[live] = gap
        unfinished = np.broadcast_to(gap > tol, live.shape)
        if not unfinished.any():
            return now
        columns = _Columns(live, part, at, scores, scale, residual, image).pick(unfinished)
        step, step_scores = _newton_step(space, columns, now.direct, exact, so_far)
        at = columns.at + _line_search(space, columns, step, step_scores) * step
        live = columns.live
        now.at[:, live] = at
        # Recomputed rather than updated: what float32 left out of the direction must not add up.
        now.scores[:, live] = space.scores(at)
        so_far.keep(functools.partial(_point_part, now, live, number + 1))
    return now


def _point_part(now: Point, live: NDArray[np.int64], step: int) -> Part:
    return Part({**now.arrays(), "live": live}, {"step": step})


def _newton_step(
    space: Space, columns: _Columns, direct: NDArray[np.bool_], exact: Exact | None, so_far: SoFar
) -> tuple[Doubles, Doubles]:
    """(direction, its scores). Columns solved exactly are marked in `direct`, and skip the iterations from then on."""
    if exact is None:
        x, image, _ = _conjugate_gradients(space, columns, np.full(len(columns.live), MAX_CG), so_far.part("gradients"))
        return x * columns.scale, image * columns.scale
    step, step_scores = np.zeros_like(columns.at), np.zeros_like(columns.scores)
    prices = np.array([exact.price(int(c), columns.scores[:, i]) for i, c in enumerate(columns.live)])
    prices[direct[columns.live]] = 0.0
    solved = np.zeros(len(columns.live), dtype=bool)
    iterated = np.flatnonzero(prices >= 1)
    if len(iterated):
        part = columns.pick(iterated)
        limits = np.minimum(prices[iterated], MAX_CG)
        x, image, solved[iterated] = _conjugate_gradients(space, part, limits, so_far.part("gradients"))
        step[:, iterated], step_scores[:, iterated] = x * part.scale, image * part.scale
    rest = np.flatnonzero(~solved)
    if len(rest):
        at, scores = columns.at[:, rest], columns.scores[:, rest]
        step[:, rest] = exact.step(columns.live[rest], at, scores, so_far.part("exact"))
        image_of_rest = space.image(step[:, rest].astype(np.float32))
        assert image_of_rest is not None
        step_scores[:, rest] = image_of_rest
        direct[columns.live[rest]] = True
    return step, step_scores


def _conjugate_gradients(
    space: Space, columns: _Columns, limits: NDArray[Any], so_far: SoFar
) -> tuple[Singles, Singles, NDArray[np.bool_]]:
    """Solves Hessian x = residual for each column (for all as one if joint): (x, its scores, columns that got there).

    A column that has reached `FORCING` or its limit stands still while the others go on.
    """
    loss, r, image = columns.loss, columns.residual.copy(), columns.image
    curvature = loss.curvature(columns.scores)
    x, x_scores = np.zeros_like(r), np.zeros((space.n, r.shape[1]), dtype=np.float32)
    p, p_image = r.copy(), image
    rr = np.maximum(_fold(loss, space.dot(r, r, image)), 0.0)
    goal, done = FORCING**2 * rr, 0
    if (part_way := so_far.found()) is not None:
        x, x_scores, r, p, rr = (part_way.arrays[name] for name in ("x", "x_scores", "r", "p", "rr"))
        p_image, done = part_way.arrays.get("p_image"), part_way.values["done"]
    for count in range(done + 1, int(limits.max()) + 1):
        hp, p_scores = space.hessian(p, p_image, curvature)
        php = _fold(loss, space.dot(hp, p, p_scores))
        moving = (rr > goal) & (limits[: len(rr)] >= count) & (php > 0)
        if not moving.any():
            break
        a = np.where(moving, rr / np.where(php > 0, php, 1.0), 0.0).astype(np.float32)
        x += a * p
        x_scores += a * p_scores
        r -= a * hp
        image = space.image(r)
        new = np.maximum(_fold(loss, space.dot(r, r, image)), 0.0)
        b = (new / np.where(rr > 0, rr, 1.0)).astype(np.float32)
        rr = np.where(moving, new, rr)
        p = r + b * p
        if image is not None and p_image is not None:
            p_image = image + b * p_image
        state = {"x": x, "x_scores": x_scores, "r": r, "p": p, "rr": rr}
        state |= {} if p_image is None else {"p_image": p_image}
        so_far.keep(functools.partial(Part, state, {"done": count}))
    return x, x_scores, np.broadcast_to(rr <= goal, (r.shape[1],))


def _line_search(space: Space, columns: _Columns, step: Doubles, step_scores: Doubles) -> Doubles:
    """The length t > 0 of each column's step: a root of the convex derivative by Newton, kept inside a bracket."""
    loss = columns.loss
    cross = _fold(loss, space.dot(columns.at, step, step_scores))
    square = _fold(loss, space.dot(step, step, step_scores))
    low, high = np.zeros_like(cross), np.full_like(cross, np.inf)
    t = np.ones_like(cross)
    first: Doubles | None = None
    singles = step_scores.astype(np.float32)
    for _ in range(30):
        scores = columns.scores + t * step_scores
        slope = cross + t * square + _fold(loss, _sums(loss.slope(scores), step_scores))
        if first is None:
            first = np.abs(cross + _fold(loss, _sums(loss.slope(columns.scores), step_scores)))
        if (np.abs(slope) <= 0.01 * first).all():
            break
        low, high = np.where(slope < 0, t, low), np.where(slope > 0, t, high)
        curved = square + _fold(loss, _sums(loss.curvature(scores)(singles, slice(0, space.n)), step_scores))
        guess = t - slope / np.where(curved > 0, curved, 1.0)
        middle = np.where(np.isinf(high), 2 * t, 0.5 * (low + high))
        t = np.where((guess > low) & (guess < high), guess, middle)
    return t


def _sums(a: Floats, b: Floats) -> Doubles:
    """Column sums of a * b, (k,) float64."""
    sums: Doubles = np.einsum("ij,ij->j", a, b).astype(np.float64)
    return sums


def _fold(loss: Loss, columns: Doubles) -> Doubles:
    """Per column, or (1,) over all of them for a joint loss."""
    return columns.sum(keepdims=True) if loss.joint else columns
