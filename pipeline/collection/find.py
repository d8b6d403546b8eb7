"""From a query's codes to rows of a collection, by each kind of method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.methods import SHORTLIST, SHORTLIST_FACTOR, Method
from pipeline.hashing.base import Hasher
from pipeline.hashing.pack import pack
from pipeline.search import INDEXES, PackedIndex
from pipeline.search.cosine import Cosine
from pipeline.search.rerank import TwoStage

RowNumbers = NDArray[np.int64]
Found = tuple[NDArray[Any], RowNumbers]


@dataclass(frozen=True)
class Query:
    """Codes of an image by their spec, each (1, d), or the row of one whose codes are here. `left_out`: a row that is
    no answer, or -1.
    """

    codes: Mapping[str, NDArray[Any]] | None = None
    row: int = -1
    left_out: int = -1

    def answers(self, distances: NDArray[Any], rows: RowNumbers) -> Found:
        """Both without the row that is left out."""
        kept = rows != self.left_out
        return distances[kept], rows[kept]


@dataclass(frozen=True)
class Finder:
    """The codes of a collection, (n, ...) in the order of `ids`, which ascend. `rows` of a question ascend as well, and
    answers are in the order of (distance, row), which is that of (distance, id).

    `codes`: floats by spec. `packed`: bits by hasher, and `spec_of` its codes. `short`: the hasher of two-stage's
    shortlist, and `index` what searches its bits. `hasher`: name -> the fitted one. Rows that are a part of all are
    compared one by one, and with `scan` all are.
    """

    ids: NDArray[np.str_]
    codes: Mapping[str, NDArray[Any]]
    packed: Mapping[str, NDArray[np.uint8]]
    spec_of: Mapping[str, str]
    short: str
    index: PackedIndex
    hasher: Callable[[str], Hasher]
    _cosines: dict[str, Cosine] = field(default_factory=dict)

    def kind(self, method: Method, rows: RowNumbers, radius: float | None, *, scan: bool) -> str:
        """The kind of index that answers: exact, unless the short code's own does."""
        shortlisted = method.kind == "two-stage" or method.name == self.short
        if scan or not shortlisted or len(rows) < len(self.ids):
            return "exact"
        return self.index.name if radius is None or radius <= self.index.exact_radius else "exact"

    def nearest(self, method: Method, query: Query, rows: RowNumbers, k: int, *, scan: bool = False) -> Found:
        """Distances and rows of the k nearest among `rows`, as the index finds them."""
        if method.kind == "cosine":
            distances, at = self._scorer(method.spec, rows).search_rows(self._code(method.spec, query), k)
            return distances[0], rows[at[0]]
        hasher = self.short if method.kind == "two-stage" else method.name
        index, bits = self._index(hasher, query, rows, self.kind(method, rows, None, scan=scan))
        if method.kind == "hamming":
            bit_distances, at = index.search_rows(bits, k)
            return bit_distances[0], rows[at[0]]
        two = TwoStage(index, self._scorer(method.spec, rows), shortlist=max(SHORTLIST, SHORTLIST_FACTOR * k))
        distances, ids = two.search(bits, self._code(method.spec, query), k)
        return distances[0], rows[np.searchsorted(index.ids, ids[0])]

    def within(self, method: Method, query: Query, rows: RowNumbers, radius: float, *, scan: bool = False) -> Found:
        """Distances and rows of all within the radius among `rows`, by hash tables where these are sure to hold all."""
        if method.kind == "cosine":
            distances, found = self.nearest(method, query, rows, len(rows))
            count = int(np.searchsorted(distances, radius, side="right"))
            return distances[:count], found[:count]
        index, bits = self._index(method.name, query, rows, self.kind(method, rows, radius, scan=scan))
        [(bit_distances, ids)] = index.range_search(bits, int(radius))
        return bit_distances, rows[np.searchsorted(index.ids, ids)]

    def _index(self, hasher: str, query: Query, rows: RowNumbers, kind: str) -> tuple[PackedIndex, NDArray[np.uint8]]:
        """An index of that kind of `rows`, and the query's bits (1, nbits/8)."""
        packed = self.packed[hasher]
        if query.codes is None:
            bits = packed[query.row][None]
        else:
            bits = pack(self.hasher(hasher).bits(query.codes[self.spec_of[hasher]]))
        if kind != "exact":
            return self.index, bits
        if len(rows) == len(self.ids):
            return _exact(self.ids, packed), bits
        return _exact(self.ids[rows], np.ascontiguousarray(packed[rows])), bits

    def _scorer(self, spec: str, rows: RowNumbers) -> Cosine:
        if len(rows) < len(self.ids):
            return Cosine(self.codes[spec][rows], self.ids[rows])
        if spec not in self._cosines:  # two threads may both make it: they make the same
            self._cosines[spec] = Cosine(self.codes[spec], self.ids)
        return self._cosines[spec]

    def _code(self, spec: str, query: Query) -> NDArray[Any]:
        return self.codes[spec][query.row][None] if query.codes is None else query.codes[spec]


def _exact(ids: NDArray[np.str_], packed: NDArray[np.uint8]) -> PackedIndex:
    """An exact index over rows that are sorted by id, which is not copied."""
    nbits = packed.shape[1] * 8
    return INDEXES["exact"].restored(nbits, {}, ids, packed)
