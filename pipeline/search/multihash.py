"""Hash tables over substrings of the code (Norouzi, Punjani and Fleet 2012; Krizhevsky and Hinton 2011).

A query looks into the buckets that its substrings name, so that the time depends on how full these are rather than on
the collection's size.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from pipeline.base.errors import UserError
from pipeline.search.base import Capabilities, Distances, Ints, Packed, PackedIndex, State, require_settings
from pipeline.search.faiss_backend import copied

# Addresses that a query looks up, at most: above this a scan is faster.
_MOST_BUCKETS = 100_000


class MultiHash(PackedIndex):
    """`tables` hash tables, each on the next `table_bits` bits; buckets with up to `flips` other bits are opened too.

    Neighbours within tables * (flips + 1) - 1 bits are always found: by the pigeonhole principle one of the
    substrings then differs in at most `flips` bits. Radius search up to there is exact by the tables, and beyond it
    by a scan. Queries whose buckets hold fewer than k rows are scanned.
    """

    name: ClassVar[str] = "multihash"
    can: ClassVar[Capabilities] = Capabilities(exact=False, add="in place", remove="rebuild", range="in place")

    def __init__(self, nbits: int, *, tables: int, table_bits: int, flips: int) -> None:
        super().__init__(nbits)
        self.tables, self.table_bits, self.flips = tables, table_bits, flips
        require_settings(self.name, {"tables": (1, nbits), "table_bits": (1, 32), "flips": (0, 32)}, self.settings())
        opened = tables * sum(math.comb(table_bits, i) for i in range(flips + 1))
        if tables * table_bits > nbits or flips > table_bits or opened > _MOST_BUCKETS:
            raise UserError(
                f"index multihash with {tables} tables of {table_bits} bits and {flips} flips on codes of {nbits} bits",
                allowed="tables x bits up to the code's length, flips up to the bits, and no more than "
                f"{_MOST_BUCKETS:,} addresses a query",
                see="docs/params.md",
            )

    def settings(self) -> dict[str, Any]:
        return {"tables": self.tables, "table_bits": self.table_bits, "flips": self.flips}

    def _build(self, packed: Packed) -> Any:
        import faiss

        backend = faiss.IndexBinaryMultiHash(self.nbits, self.tables, self.table_bits)
        backend.nflip = self.flips
        backend.add(packed)
        return backend

    def _extend(self, backend: Any, packed: Packed, labels: Ints) -> Any:
        backend = copied(backend)
        backend.add(packed)  # labels go on from where they stood
        return backend

    def _nearest(self, state: State, queries: Packed, k: int) -> tuple[Distances, Ints]:
        distances, labels = state.backend.search(queries, k)
        return distances, labels

    @property
    def exact_radius(self) -> int:
        return self.tables * (self.flips + 1) - 1

    def _within(self, state: State, queries: Packed, radius: int) -> list[Ints]:
        if radius > self.exact_radius:
            return super()._within(state, queries, radius)
        # faiss takes distances below its radius; ours includes it.
        limits, _, labels = state.backend.range_search(queries, radius + 1)
        return [np.sort(state.row_of[labels[a:b].astype(np.int64)]) for a, b in pairwise(limits)]
