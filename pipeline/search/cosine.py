"""Exact cosine over the float codes: a method of its own, and the reference row of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.search.base import Change, Ids, Ints, at_most, checked_ids
from pipeline.search.points import Points

Floats = NDArray[np.float32]
_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class _State:
    ids: Ids
    points: Points  # (n, d) float16 or float32, in id order


class Cosine:
    """Distance 1 - cos(x, y) in [0, 2], float32, in steps of 2^-23; a code that is all zero is at 0 from its equals and
    at 1 from all others.

    Scores are shortlisted by a float32 product and then computed again, row by row, in float64: the same two codes
    have the same distance in any batch and any collection, so that ties are ties and fall to the lower id.
    """

    name: ClassVar[str] = "cosine"

    def __init__(self, codes: NDArray[Any], ids: Ids) -> None:
        self._state = _sorted_state(_checked(codes), checked_ids(ids))

    def __len__(self) -> int:
        return len(self._state.ids)

    @property
    def ids(self) -> Ids:
        return self._state.ids

    @property
    def codes(self) -> NDArray[Any]:
        """(n, d) in the order of `ids`."""
        return self._state.points.codes

    def add(self, codes: NDArray[Any], ids: Ids) -> Change:
        """(n, d) of the same width and dtype, under ids that are not there yet."""
        old, ids = self._state, checked_ids(ids)
        codes = self._matching(codes, old)
        if np.isin(ids, old.ids).any():
            raise UserError("some ids are already in the index", allowed="new ids", see="`remove` first")
        every = np.concatenate([old.points.codes, codes.astype(old.points.codes.dtype)])
        self._state = _sorted_state(every, np.concatenate([old.ids, ids]))
        return Change(len(ids), False)

    def remove(self, ids: Ids) -> Change:
        """All of `ids` must be there."""
        old, ids = self._state, checked_ids(ids)
        if not np.isin(ids, old.ids).all():
            raise UserError("some ids are not in the index", allowed=f"the {len(old.ids)} ids in it")
        kept = ~np.isin(old.ids, ids)
        self._state = _State(old.ids[kept], old.points.take(kept))
        return Change(len(ids), False)

    def search(self, codes: NDArray[Any], k: int) -> tuple[Floats, Ids]:
        """(q, d) -> distances and ids, both (q, min(k, n)), in the order of both. Raises UserError as an `Index`."""
        state = self._state
        distances, rows = self._search(state, codes, k)
        return distances, state.ids[rows]

    def search_rows(self, codes: NDArray[Any], k: int) -> tuple[Floats, Ints]:
        """As `search`, with rows of `ids` in place of ids."""
        return self._search(self._state, codes, k)

    def distances_to(self, codes: NDArray[Any], rows: Ints) -> Floats:
        """(q, m) distances of (q, d) codes to rows (q, m) of `ids`."""
        state = self._state
        queries = Points.cosine(self._matching(codes, state))
        return np.stack([queries.to_rows(i, state.points, mine) for i, mine in enumerate(rows)])

    def _search(self, state: _State, codes: NDArray[Any], k: int) -> tuple[Floats, Ints]:
        queries = Points.cosine(self._matching(codes, state))
        k = at_most(k, len(state.ids))
        distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        # A float32 dot product of unit vectors errs by at most d rounding units (Higham 2002, eq. 3.5).
        slack = np.float32(4 * (codes.shape[1] + 2) * np.finfo(np.float32).eps + queries.step)
        step = max(1, _BLOCK_BYTES // (4 * len(state.ids)))
        for start in range(0, len(queries), step):
            scores = _products(state.points, queries.take(slice(start, start + step)))
            kth = np.partition(scores, len(state.ids) - k, axis=1)[:, -k]
            for i in range(len(scores)):
                near = np.flatnonzero(scores[i] >= kth[i] - slack)
                exact = queries.to_rows(start + i, state.points, near)
                first = np.argsort(exact, kind="stable")[:k]  # `near` ascends, so equal distances keep id order
                distances[start + i], rows[start + i] = exact[first], near[first]
        return distances, rows

    @staticmethod
    def _matching(codes: NDArray[Any], state: _State) -> NDArray[Any]:
        codes = _checked(codes)
        if codes.shape[1] != state.points.codes.shape[1]:
            raise UserError(
                f"codes of {codes.shape[1]} values for an index of {state.points.codes.shape[1]}",
                allowed="codes of the layer and pooling that the index was made with",
            )
        return codes


def _products(points: Points, queries: Points) -> Floats:
    """(q, n) cosines in float32, the rows converted in blocks."""
    q = _units(queries)
    scores = np.empty((len(queries), len(points)), np.float32)
    step = max(1, _BLOCK_BYTES // (4 * max(q.shape[1], 1)))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        scores[:, part] = q @ _units(points.take(part)).T
    scores[np.ix_(queries.empty, points.empty)] = 1.0
    return scores


def _units(points: Points) -> Floats:
    """(n, d) of length 1, in float32."""
    rows = points.codes.astype(np.float32)
    rows /= points.scale[:, None].astype(np.float32)
    return rows


def _sorted_state(codes: NDArray[Any], ids: Ids) -> _State:
    if len(codes) != len(ids):
        raise UserError(f"{len(ids)} ids for {len(codes)} codes", allowed="one id a row")
    order = np.argsort(ids, kind="stable")
    return _State(ids[order], Points.cosine(codes[order]))


def _checked(codes: NDArray[Any]) -> NDArray[Any]:
    if codes.ndim != 2 or codes.dtype.kind != "f":
        raise UserError(f"codes are {codes.dtype} of shape {codes.shape}", allowed="floats (n, d)")
    if not np.isfinite(codes).all():
        raise UserError("codes hold NaN or infinity", allowed="finite values")
    return codes
