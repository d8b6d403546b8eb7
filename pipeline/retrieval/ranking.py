"""Rankings of one database for many queries, by bits or by floats, as tie groups a block of queries at a time.

Two kinds of answers count as relevant: rows of the query's class, and its listed true neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.retrieve import TieGroups, distance_groups, hamming_groups, neighbour_groups
from pipeline.search.points import Points

Ints = NDArray[np.int64]
Packed = NDArray[np.uint8]
Floats = NDArray[np.float32]

_BLOCK_GROUPS = 4_000_000  # tie groups of a block of queries, 32 MB for each figure that is kept of them
_BLOCK_VALUES = 16_000_000  # of their codes, 128 MB
_BINS = 2000  # of the distance of floats, for the balls of the precision-recall curve


@dataclass(frozen=True)
class Classes:
    """Relevant: the rows of the query's class. queries (q,) and database (n,) are class numbers."""

    queries: Ints
    database: Ints


@dataclass(frozen=True)
class Neighbours:
    """Relevant: the `rows` (q, m) of the database that are the query's true nearest."""

    rows: Ints


Relevance = Classes | Neighbours


class Ranking(Protocol):
    """Of a database for queries; `own` (q,) is a query's own row, which is never its answer, or -1."""

    def blocks(self) -> Iterator[slice]:
        """The queries, a block at a time."""
        ...

    def groups(self, part: slice, relevance: Relevance) -> TieGroups:
        """The tie groups of a block of queries, the nearest first."""
        ...

    def balls(self, part: slice, relevance: Relevance, groups: TieGroups) -> TieGroups:
        """As `groups`, which it may use, but group i lies at the same distance for every query."""
        ...


@dataclass(frozen=True)
class HammingRanking:
    """queries (q, nbits/8) and database (n, nbits/8), packed."""

    queries: Packed
    database: Packed
    own: Ints

    def blocks(self) -> Iterator[slice]:
        return _blocks(len(self.queries), self.queries.shape[1] * 8 + 1)

    def groups(self, part: slice, relevance: Relevance) -> TieGroups:
        queries, own = self.queries[part], self.own[part]
        if isinstance(relevance, Neighbours):
            return neighbour_groups(queries, self.database, relevance.rows[part], self_rows=own)
        return hamming_groups(queries, self.database, relevance.queries[part], relevance.database, self_rows=own)

    def balls(self, part: slice, relevance: Relevance, groups: TieGroups) -> TieGroups:
        return groups  # group d already holds what lies at distance d


@dataclass(frozen=True)
class FloatRanking:
    """By the distance of `Points`: equal codes tie whatever the order of the database, as they do in an index."""

    queries: Points
    database: Points
    own: Ints

    @classmethod
    def cosine(cls, queries: NDArray[Any], database: NDArray[Any], own: Ints) -> Self:
        """Distance 1 - cos of (q, d) and (n, d) codes."""
        return cls(Points.cosine(_wide(queries)), Points.cosine(_wide(database)), own)

    @classmethod
    def euclidean(cls, queries: NDArray[Any], database: NDArray[Any], own: Ints) -> Self:
        """Half the squared Euclidean distance of codes in [0, 1]: half the Hamming distance if they are bits."""
        return cls(Points.euclidean(_wide(queries)), Points.euclidean(_wide(database)), own)

    def blocks(self) -> Iterator[slice]:
        return _blocks(len(self.queries), len(self.database), most=_BLOCK_VALUES // self.queries.codes.shape[1])

    def groups(self, part: slice, relevance: Relevance) -> TieGroups:
        return distance_groups(self._distances(part), self._relevant(part, relevance))

    def balls(self, part: slice, relevance: Relevance, groups: TieGroups) -> TieGroups:
        distances, relevant = self._distances(part), self._relevant(part, relevance)
        kept = np.isfinite(distances)
        bins = np.clip(np.where(kept, distances, 0) * (_BINS / self.database.reach), 0, _BINS - 1).astype(np.int64)
        counts, hits = np.zeros((2, len(bins), _BINS), dtype=np.int64)
        for i, row in enumerate(bins):
            counts[i] = np.bincount(row[kept[i]], minlength=_BINS)
            hits[i] = np.bincount(row[kept[i] & relevant[i]], minlength=_BINS)
        return TieGroups(counts, hits, hits.sum(axis=1))

    def _distances(self, part: slice) -> Floats:
        """(b, n), infinite at a query's own row."""
        distances = self.queries.take(part).to_all(self.database)
        own = self.own[part]
        distances[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        return distances

    def _relevant(self, part: slice, relevance: Relevance) -> NDArray[np.bool_]:
        if isinstance(relevance, Classes):
            same: NDArray[np.bool_] = relevance.queries[part, None] == relevance.database
            return same
        rows = relevance.rows[part]
        listed = np.zeros((len(rows), len(self.database)), dtype=np.bool_)
        np.put_along_axis(listed, rows, True, axis=1)
        return listed


def _wide(codes: NDArray[Any]) -> Floats:
    """float32 holds what float16 does, and is quickly made float64, which each block of queries asks for once."""
    return codes.astype(np.float32, copy=False)


def _blocks(queries: int, groups: int, *, most: int | None = None) -> Iterator[slice]:
    """Slices of the queries, each with at most _BLOCK_GROUPS groups and `most` queries (one at least)."""
    step = max(1, min(_BLOCK_GROUPS // groups, queries if most is None else most))
    return (slice(start, min(start + step, queries)) for start in range(0, queries, step))
