"""What an index finds of the true neighbours, measured on its own rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.search import kernels
from pipeline.search.base import Distances, Ints, PackedIndex

K = 10
_MOST_QUERIES = 1000


@dataclass(frozen=True)
class Recall:
    """Recall is by distance: the share of the 10 places of a query (all other rows, where they are fewer) that hold a
    row no farther than its true 10th, so that which of the equally far are named makes no difference.
    """

    recall_at_10: float
    measured_queries: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measured(index: PackedIndex) -> Recall:
    """By up to 1,000 rows, the same for the same index, each a query among the others. An exact index is not measured:
    it finds all.
    """
    rows = len(index)
    if index.can.exact or rows < 2:
        return Recall(1.0, 0)
    drawn = np.sort(np.random.default_rng(0).choice(rows, min(_MOST_QUERIES, rows), replace=False))
    queries = index.packed[drawn]
    k = min(K, rows - 1)
    true = _others(*kernels.nearest(queries, index.packed, k + 1), drawn)
    found = _others(*index.search_rows(queries, k + 1), drawn)
    return Recall(float(np.mean(found <= true[:, -1:])), len(drawn))


def _others(distances: Distances, rows: Ints, own: Ints) -> Distances:
    """(q, k + 1) neighbours of stored rows `own` (q,) -> (q, k) distances of those that are other rows."""
    left_out = rows == own[:, None]
    # It need not be among them, where there are more copies of it than places, or the index missed it.
    left_out[~left_out.any(axis=1), -1] = True
    others: Distances = distances[~left_out].reshape(len(own), -1)
    return others
