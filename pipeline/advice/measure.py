"""How well the codes of each layer separate the classes of the images that advice may see."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.advice.least_squares import RIDGES, held_out, near
from pipeline.advice.seen import Seen
from pipeline.advice.transferability import h_score, logme
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams
from pipeline.heads.registry import head_type
from pipeline.heads.scaling import Scaling
from pipeline.heads.stream import Matrix
from pipeline.metrics import classify

Ints = NDArray[np.int64]
Singles = NDArray[np.float32]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """Cross-validated accuracy of the least-squares head on `n` images, its standard error, and its ridge."""

    n: int
    accuracy: float
    se: float
    ridge: float


@dataclass(frozen=True, eq=False)
class Scored:
    """What was measured of one spec. `curve` is by rising n; `right` (scored,) tells in what share of the deals the
    head of the last point has each held-out row right, and `weights` (scored,), of mean 1, what each counts.

    `logme` and `h_score` are of the first `probed` rows.
    """

    spec: str
    dim: int
    curve: tuple[Point, ...]
    knn: float
    knn_k: int
    logme: float
    h_score: float
    right: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        return self.curve[-1].accuracy

    def behind(self, other: Scored) -> tuple[float, float]:
        """By how much this layer's accuracy is below another's on the same rows, and the standard error of that."""
        differences = (other.right - self.right) * self.weights
        return float(differences.mean()), standard_error(differences)

    def doubling(self) -> float | None:
        """Accuracy gained by the last doubling of the images, on a logarithmic scale; None with one point."""
        if len(self.curve) < 2:
            return None
        before, last = self.curve[-2:]
        return (last.accuracy - before.accuracy) / math.log2(last.n / before.n)


def standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def measure(codes: Codes, seen: Seen, heads: HeadsParams, *, shares: Sequence[float], probe: int) -> Scored:
    """Scaled as `heads.fit.scaling` says. With class_weight `balanced` accuracy is the mean class recall.

    `shares` rise to 1: of the rows of `seen`, for the learning curve. `probe`: rows that LogME and the H-score see.
    """
    x = _scaled(codes, seen, heads)
    balanced = heads.class_weight == "balanced"
    points: list[Point] = []
    right = np.empty(0)
    for n in sizes(seen, shares):
        part = seen.first(n)
        weights = _weights(part, balanced=balanced)
        # The best ridge moves little as rows double, and the last point costs more than all before it.
        ridges = near(points[-1].ridge) if points else RIDGES
        answers = held_out(x[:n], part.targets(balanced=balanced), part.folds, ridges)
        all_right = _right_shares(answers, part)
        best = int(np.argmax(all_right @ weights))
        right = all_right[best]
        points.append(Point(n, float((right * weights).mean()), standard_error(right * weights), ridges[best]))
    knn, k = _nearest(x, seen, heads, _weights(seen, balanced=balanced))
    few = slice(0, min(probe, len(seen)))
    found = Scored(
        spec=codes.spec,
        dim=codes.dim,
        curve=tuple(points),
        knn=knn,
        knn_k=k,
        logme=logme(x[few], seen.y[few]),
        h_score=h_score(x[few], seen.y[few]),
        right=right,
        weights=_weights(seen, balanced=balanced),
    )
    log.info("%s: %.3f in cross-validation on %d images", codes.spec, found.accuracy, len(seen))
    return found


def sizes(seen: Seen, shares: Sequence[float]) -> list[int]:
    """Rows of each share that can be cross-validated, rising, each once."""
    wanted = sorted({max(seen.k, round(share * len(seen))) for share in shares})
    return [n for n in wanted if seen.first(n).scored.any()]


def _scaled(codes: Codes, seen: Seen, heads: HeadsParams) -> Singles:
    raw = codes.by_id(seen.ids)
    return Scaling.fit(heads.scaling, [raw]).apply(raw)


def _weights(seen: Seen, *, balanced: bool) -> NDArray[np.float64]:
    """(scored,) of mean 1: equal, or such that each class that is scored counts the same."""
    y = seen.y[seen.scored]
    if not balanced:
        return np.ones(len(y))
    counts = np.bincount(y, minlength=seen.k)
    return np.asarray(len(y) / ((counts > 0).sum() * counts[y]), dtype=np.float64)


def _right_shares(answers: Ints, seen: Seen) -> NDArray[np.float64]:
    """Answers (..., deals, n) -> (..., scored) the share of the deals that hold a row out in which it is right."""
    told = seen.folds >= 0
    right = ((answers == seen.y) & told).sum(axis=-2)
    return np.asarray((right / np.maximum(told.sum(axis=0), 1))[..., seen.scored], dtype=np.float64)


@dataclass(frozen=True)
class _Held:
    x: Singles

    def rows(self, index: Ints, /) -> Singles:
        return self.x[index]


def _nearest(x: Singles, seen: Seen, heads: HeadsParams, weights: NDArray[np.float64]) -> tuple[float, int]:
    """Cross-validated accuracy of the head `knn` and its k, the best of the grid (of equal ones the smallest)."""
    smallest = min(int((fold != held).sum()) for fold in seen.folds for held in np.unique(fold[fold >= 0]))
    grid = sorted({min(k, smallest) for k in heads.k_grid})
    targets = seen.targets(balanced=heads.class_weight == "balanced")
    answers = np.full((len(grid), *seen.folds.shape), -1, dtype=np.int64)
    for deal, fold in enumerate(seen.folds):
        for held in np.unique(fold[fold >= 0]):
            train, test = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
            rows = Matrix(_Held(x), train, x.shape[1], Scaling("none"), memory_bytes=x.nbytes + 1)
            fitted = head_type("knn").fit(
                rows, type(targets)(targets.y[train], targets.k, targets.balanced), [float(k) for k in grid], seed=0
            )
            for number, head in enumerate(fitted):
                answers[number, deal, test] = classify.predicted(head.scores(x[test]))
    right = _right_shares(answers, seen)
    best = int(np.argmax(right @ weights))
    return float((right[best] * weights).mean()), grid[best]


def expected(layers: Sequence[Scored], images: int) -> Mapping[str, float]:
    """Accuracy of each spec at `images`, from the learning curves where fewer could be measured.

    What a doubling brings shrinks from one doubling to the next; by how much is taken from all layers together, since
    one layer's is mostly noise. Without three points the accuracy is that which was measured.
    """
    found = {layer.spec: layer.accuracy for layer in layers}
    lengths = {len(layer.curve) for layer in layers}
    n = layers[0].curve[-1].n
    if images <= n or min(lengths) < 3:
        return found
    gains = [[_gain(a, b) for a, b in itertools.pairwise(layer.curve[-3:])] for layer in layers]
    earlier, later = (max(sum(step), 0.0) for step in zip(*gains, strict=True))
    shrink = min(later / earlier, 1.0) if earlier > 0 else 0.0
    doublings = math.log2(images / n)
    # shrink + shrink^2 + ... over that many doublings, of which the last may be a part.
    total = doublings if shrink == 1 else shrink * (1 - shrink**doublings) / (1 - shrink)
    return {
        layer.spec: min(1.0, layer.accuracy + max(later_gain, 0.0) * total)
        for layer, (_, later_gain) in zip(layers, gains, strict=True)
    }


def _gain(before: Point, after: Point) -> float:
    return (after.accuracy - before.accuracy) / math.log2(after.n / before.n)
