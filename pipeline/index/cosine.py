"""Exact cosine over the float codes: a method of its own, and the reference row of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.index.base import Change, Ids, Ints, at_most, checked_ids

Floats = NDArray[np.float32]
_BLOCK_BYTES = 32 << 20
_RESCORED_ROWS = 1024


@dataclass(frozen=True)
class _State:
    ids: Ids
    codes: NDArray[Any]  # (n, d) float16 or float32, in id order
    lengths: NDArray[np.float64]


class Cosine:
    """Distance 1 - cos(x, y) in [0, 2], float32; a code that is all zero is at distance 1 from everything.

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
        return self._state.codes

    def add(self, codes: NDArray[Any], ids: Ids) -> Change:
        """(n, d) of the same width and dtype, under ids that are not there yet."""
        old, ids = self._state, checked_ids(ids)
        codes = self._matching(codes, old)
        if np.isin(ids, old.ids).any():
            raise UserError("some ids are already in the index", allowed="new ids", see="`remove` first")
        every = np.concatenate([old.codes, codes.astype(old.codes.dtype)])
        self._state = _sorted_state(every, np.concatenate([old.ids, ids]))
        return Change(len(ids), False)

    def remove(self, ids: Ids) -> Change:
        """All of `ids` must be there."""
        old, ids = self._state, checked_ids(ids)
        if not np.isin(ids, old.ids).all():
            raise UserError("some ids are not in the index", allowed=f"the {len(old.ids)} ids in it")
        kept = ~np.isin(old.ids, ids)
        self._state = _State(old.ids[kept], old.codes[kept], old.lengths[kept])
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
        queries = self._matching(codes, state).astype(np.float64)
        return np.stack([_distances(state, query, mine) for query, mine in zip(queries, rows, strict=True)])

    def _search(self, state: _State, codes: NDArray[Any], k: int) -> tuple[Floats, Ints]:
        queries = self._matching(codes, state)
        k = at_most(k, len(state.ids))
        distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        step = max(1, _BLOCK_BYTES // (4 * len(state.ids)))
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            scores = _products(state, part)
            # A float32 dot product of unit vectors errs by at most d rounding units (Higham 2002, eq. 3.5).
            slack = np.float32(4 * (codes.shape[1] + 2) * np.finfo(np.float32).eps)
            kth = np.partition(scores, len(state.ids) - k, axis=1)[:, -k]
            for i, query in enumerate(part.astype(np.float64)):
                near = np.flatnonzero(scores[i] >= kth[i] - slack)
                exact = _distances(state, query, near)
                first = np.argsort(exact, kind="stable")[:k]  # `near` ascends, so equal distances keep id order
                distances[start + i], rows[start + i] = exact[first], near[first]
        return distances, rows

    @staticmethod
    def _matching(codes: NDArray[Any], state: _State) -> NDArray[Any]:
        codes = _checked(codes)
        if codes.shape[1] != state.codes.shape[1]:
            raise UserError(
                f"codes of {codes.shape[1]} values for an index of {state.codes.shape[1]}",
                allowed="codes of the layer and pooling that the index was made with",
            )
        return codes


def _products(state: _State, queries: NDArray[Any]) -> Floats:
    """(q, n) cosines in float32, the rows converted in blocks."""
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    q = (queries / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)
    scores = np.empty((len(q), len(state.codes)), np.float32)
    step = max(1, _BLOCK_BYTES // (4 * max(q.shape[1], 1)))
    for start in range(0, len(state.codes), step):
        lengths = state.lengths[start : start + step]
        rows = state.codes[start : start + step].astype(np.float32)
        rows /= np.where(lengths > 0, lengths, 1.0)[:, None].astype(np.float32)
        scores[:, start : start + step] = q @ rows.T
    return scores


def _distances(state: _State, query: NDArray[np.float64], rows: Ints) -> Floats:
    """(m,) of one (d,) query, each row summed alone so that its neighbours in memory don't matter."""
    lengths = state.lengths[rows] * np.sqrt(np.sum(query * query))
    dots = np.empty(len(rows))
    for start in range(0, len(rows), _RESCORED_ROWS):
        part = slice(start, start + _RESCORED_ROWS)
        dots[part] = np.sum(state.codes[rows[part]].astype(np.float64) * query, axis=1)
    cosines = np.divide(dots, lengths, out=np.zeros(len(rows)), where=lengths > 0)
    distances: Floats = np.clip(1.0 - cosines, 0.0, 2.0).astype(np.float32)
    return distances


def _sorted_state(codes: NDArray[Any], ids: Ids) -> _State:
    if len(codes) != len(ids):
        raise UserError(f"{len(ids)} ids for {len(codes)} codes", allowed="one id a row")
    order = np.argsort(ids, kind="stable")
    codes = codes[order]
    return _State(ids[order], codes, np.array([np.sqrt(np.sum(np.square(c, dtype=np.float64))) for c in codes]))


def _checked(codes: NDArray[Any]) -> NDArray[Any]:
    if codes.ndim != 2 or codes.dtype.kind != "f":
        raise UserError(f"codes are {codes.dtype} of shape {codes.shape}", allowed="floats (n, d)")
    if not np.isfinite(codes).all():
        raise UserError("codes hold NaN or infinity", allowed="finite values")
    return codes
