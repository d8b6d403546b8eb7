"""Two-stage search: a short code for the shortlist, a long code or the float codes to order it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.search.base import Ids, Ints, Packed, PackedIndex, at_most


class Scorer(Protocol):
    """What can order a shortlist: an index of long codes, or `Cosine`."""

    @property
    def ids(self) -> Ids: ...

    def distances_to(self, codes: NDArray[Any], rows: Ints) -> NDArray[Any]:
        """(q, m) distances of q codes to rows (q, m) of `ids`."""
        ...


class TwoStage:
    """Neighbours by `scorer` among the `shortlist` nearest by `first` (Krizhevsky and Hinton 2011).

    Both hold the same ids. With a shortlist of the whole collection, the answer is the scorer's own.
    """

    def __init__(self, first: PackedIndex, scorer: Scorer, *, shortlist: int) -> None:
        if shortlist < 1:
            raise UserError(f"a shortlist of {shortlist}", allowed="at least 1")
        self.first, self.scorer, self.shortlist = first, scorer, shortlist

    def search(self, packed: Packed, codes: NDArray[Any], k: int) -> tuple[NDArray[Any], Ids]:
        """Short codes (q, nbits/8) and the scorer's codes (q, ...) of the same queries -> distances, ids, each (q, k).

        In the order of (distance by the scorer, id); k is n where that is less. Raises UserError if k is above the
        shortlist, or if the two hold different ids.
        """
        ids = self.first.ids
        if not np.array_equal(ids, self.scorer.ids):
            raise UserError("the two stages hold different ids", allowed="two indexes of one collection")
        if len(packed) != len(codes):
            raise UserError(f"{len(packed)} short codes and {len(codes)} long ones", allowed="one of each a query")
        k = at_most(k, len(ids))
        if k > self.shortlist:
            raise UserError(f"k = {k} from a shortlist of {self.shortlist}", allowed=f"1 to {self.shortlist}")
        _, rows = self.first.search_rows(packed, min(self.shortlist, len(ids)))
        distances = self.scorer.distances_to(codes, rows)
        order = np.lexsort((rows, distances), axis=1)[:, :k]
        return np.take_along_axis(distances, order, axis=1), ids[np.take_along_axis(rows, order, axis=1)]
