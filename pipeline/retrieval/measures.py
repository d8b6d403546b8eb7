"""A ranking's figures: means over queries, ties resolved by expectation, and the precision-recall curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.retrieve import (
    TieGroups,
    average_precision,
    precision_at,
    precision_recall_curve,
    precision_within,
    recall_at,
)
from pipeline.retrieval.ranking import Classes, HammingRanking, Neighbours, Ranking, Relevance

Floats = NDArray[np.float64]
_LEVELS = 100  # of recall, at which the curve is kept


@dataclass(frozen=True)
class Curve:
    """Precision and recall of all answers pooled within a growing distance, thinned to about a hundred points."""

    precision: Floats
    recall: Floats


def by_class(ranking: Ranking, classes: Classes, *, k: int, radius: int) -> tuple[dict[str, float], Curve]:
    """mAP@k (over hits and over min(R, k)), mAP over all, precision at 1 and k; for bits also within `radius` bits.

    `map_at_k_se` is the standard error of mAP@k over queries. No query may have fewer than k answers.
    """
    found: dict[str, list[Floats]] = {}
    pooled = _Pool()
    for part in ranking.blocks():
        groups = ranking.groups(part, classes)
        values = {
            "map_at_k": average_precision(groups, k),
            "map_at_k_possible": average_precision(groups, k, denominator="possible"),
            "map_all": average_precision(groups),
            "precision_at_1": precision_at(groups, 1),
            "precision_at_k": precision_at(groups, k),
        }
        if isinstance(ranking, HammingRanking):
            values["precision_within_radius"] = precision_within(groups, radius)
        for name, one in values.items():
            found.setdefault(name, []).append(one)
        pooled.add(ranking.balls(part, classes, groups))
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    figures = {name: float(values.mean()) for name, values in joined.items()}
    ap = joined["map_at_k"]
    figures["map_at_k_se"] = float(ap.std(ddof=1) / np.sqrt(len(ap))) if len(ap) > 1 else 0.0
    return figures, pooled.curve()


def by_neighbours(ranking: Ranking, neighbours: Neighbours, *, k: int) -> tuple[dict[str, float], Curve]:
    """The share of the true m neighbours among the first m, and among the first k (where k is not below m)."""
    true = neighbours.rows.shape[1]
    found: dict[str, list[Floats]] = {"recall_at_neighbours": [], "recall_at_k": []}
    pooled = _Pool()
    for part in ranking.blocks():
        groups = ranking.groups(part, neighbours)
        found["recall_at_neighbours"].append(recall_at(groups, true))
        found["recall_at_k"].append(recall_at(groups, max(k, true)))
        pooled.add(ranking.balls(part, neighbours, groups))
    return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}, pooled.curve()


def mean_average_precision(ranking: Ranking, relevance: Relevance, *, k: int) -> float:
    """mAP@k over the hits."""
    parts = [average_precision(ranking.groups(part, relevance), k) for part in ranking.blocks()]
    return float(np.concatenate(parts).mean())


class _Pool:
    """Sums of tie groups that lie at the same distance for all queries."""

    def __init__(self) -> None:
        self._sums: tuple[NDArray[np.int64], NDArray[np.int64], int] | None = None

    def add(self, balls: TieGroups) -> None:
        counts, hits = balls.counts.sum(axis=0), balls.relevant.sum(axis=0)
        total = int(balls.total_relevant.sum())
        if self._sums is not None:
            counts, hits, total = counts + self._sums[0], hits + self._sums[1], total + self._sums[2]
        self._sums = counts, hits, total

    def curve(self) -> Curve:
        assert self._sums is not None
        counts, hits, total = self._sums
        precision, recall = precision_recall_curve(TieGroups(counts[None], hits[None], np.array([total])))
        # The first ball to reach each level of recall; long codes have thousands of radii.
        kept = np.unique(np.searchsorted(recall, np.linspace(0, recall[-1], _LEVELS + 1)))
        return Curve(precision[kept], recall[kept])
