"""What every index of packed bits has in common: the interface, and a collection sorted by id behind it.

Neighbours are ordered by (distance, id). Rows are kept in the order of their ids, so that a row number breaks ties
just as its id does. An add or a remove makes a new state and puts it in place with one assignment: a search on
another thread sees all of the old one or all of the new one.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError

log = logging.getLogger(__name__)

Packed = NDArray[np.uint8]
Ids = NDArray[np.str_]
Ints = NDArray[np.int64]
Distances = NDArray[np.int32]
How = Literal["in place", "rebuild", "scan"]


@dataclass(frozen=True)
class Capabilities:
    """What an index can do, and how. `rebuild`: it is built anew, which takes as long as the first time. `scan`: the
    exact scan answers, in time that grows with the collection. `exact`: answers are the true nearest, ties included.
    """

    exact: bool
    add: How
    remove: How
    range: How


@dataclass(frozen=True)
class Change:
    """What an add or a remove did: rows added or gone, and in words how, if it was not done in place."""

    rows: int
    rebuilt: bool
    note: str = ""


class Index(Protocol):
    """Binary codes and ids of one's own to neighbours.

    Every method raises UserError in one sentence for bits of another width, unknown or repeated ids, an empty
    collection, or k below 1.
    """

    name: ClassVar[str]
    can: ClassVar[Capabilities]
    nbits: int

    def __len__(self) -> int: ...

    @property
    def ids(self) -> Ids:
        """(n,) sorted; row i of `search_rows` is ids[i]."""
        ...

    def add(self, packed: Packed, ids: Ids) -> Change:
        """(n, nbits/8) uint8 and (n,) ids that are not there yet."""
        ...

    def remove(self, ids: Ids) -> Change:
        """All of `ids` must be there."""
        ...

    def search(self, packed: Packed, k: int) -> tuple[Distances, Ids]:
        """(q, nbits/8) -> the k nearest of each, distances and ids both (q, min(k, n)), in the order of both."""
        ...

    def range_search(self, packed: Packed, radius: int) -> list[tuple[Distances, Ids]]:
        """All within `radius` bits, the radius included: for each query (distances, ids) in the order of both."""
        ...


class Backend:
    """What answers, made when it is first asked for: what asks nothing of it doesn't wait until it is built."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made, self._value = make, False, None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, value: Any) -> Self:
        """One that is there already."""
        backend = cls(lambda: value)
        backend.get()
        return backend

    @property
    def is_made(self) -> bool:
        return self._made

    def get(self) -> Any:
        with self._lock:
            if not self._made:
                self._value, self._made = self._make(), True
            return self._value


@dataclass(frozen=True)
class State:
    """A collection at one moment. ids (n,) sorted, packed (n, nbits/8) in their order, never changed in place.

    `backend` answers with labels, the order in which it met the rows; `row_of` (labels,) maps them to rows, -1 once
    removed.
    """

    ids: Ids
    packed: Packed
    answering: Backend
    row_of: Ints

    @property
    def backend(self) -> Any:
        return self.answering.get()


class PackedIndex(ABC):
    """An `Index` over a backend: a subclass says how to build one and ask it, and what it can do in place."""

    name: ClassVar[str]
    can: ClassVar[Capabilities]

    def __init__(self, nbits: int) -> None:
        if nbits <= 0 or nbits % 8:
            raise UserError(f"{nbits} bits do not fill whole bytes", allowed="a positive multiple of 8")
        self.nbits = nbits
        self._state = self._empty()

    def _empty(self) -> State:
        return State(
            np.zeros(0, np.str_), np.zeros((0, self.nbits // 8), np.uint8), Backend.of(None), np.zeros(0, np.int64)
        )

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Every setting that changes an answer, as JSON: `INDEXES[name](nbits, **settings)` makes the same index."""

    @abstractmethod
    def _build(self, packed: Packed) -> Any:
        """A backend over rows 0 .. n-1, the same for the same rows."""

    @abstractmethod
    def _nearest(self, state: State, queries: Packed, k: int) -> tuple[Distances, Ints]:
        """(q, k) distances and labels, in any order; label -1 where fewer were found."""

    def _extend(self, backend: Any, packed: Packed, labels: Ints) -> Any:
        """A new backend with more rows under `labels`, the old one left as it is; None if that needs a rebuild."""
        return None

    def _drop(self, backend: Any, labels: Ints) -> Any:
        """A new backend without `labels`, the old one left as it is; None if that needs a rebuild."""
        return None

    @property
    def exact_radius(self) -> int:
        """Bits within which a radius search finds all without a scan; -1 if it always scans."""
        return -1

    def _within(self, state: State, queries: Packed, radius: int) -> list[Ints]:
        """Rows within `radius` of each query, ascending; by a scan unless the subclass knows better."""
        from pipeline.search.kernels import rows_within

        return rows_within(queries, state.packed, radius)

    def __len__(self) -> int:
        return len(self._state.ids)

    @property
    def ids(self) -> Ids:
        return self._state.ids

    @property
    def packed(self) -> Packed:
        """(n, nbits/8) in the order of `ids`."""
        return self._state.packed

    @property
    def state(self) -> State:
        """For saving: one consistent moment."""
        return self._state

    @classmethod
    def restored(cls, nbits: int, settings: dict[str, Any], ids: Ids, packed: Packed, *, kept: bytes = b"") -> Self:
        """An index of rows in the order of their ids. `kept`: what the saved one's `kept` gave, by whoever wrote it.

        Raises UserError if that is none of this kind's.
        """
        index = cls(nbits, **settings)
        if len(ids):
            backend = Backend.of(index._rebuilt(packed, kept)) if kept else Backend(lambda: index._build(packed))
            index._state = State(ids, packed, backend, np.arange(len(ids)))
        return index

    def kept(self) -> bytes:
        """What the rows alone don't tell of the backend, to be saved beside them; b"" if there is nothing."""
        return b""

    def _rebuilt(self, packed: Packed, kept: bytes) -> Any:
        """A backend over rows 0 .. n-1, by what was kept; earlier versions kept what the rows tell too."""
        return self._build(packed)

    def add(self, packed: Packed, ids: Ids) -> Change:
        old = self._state
        new_ids, new = checked_ids(ids), self._checked(packed)
        if len(new_ids) != len(new):
            raise UserError(f"{len(new_ids)} ids for {len(new)} rows", allowed="one id a row")
        there = np.isin(new_ids, old.ids)
        if there.any():
            raise UserError(f"{_some(new_ids[there])} already in the index", allowed="new ids", see="`remove` first")
        if not len(new_ids):
            return Change(0, False)
        every = np.concatenate([old.ids, new_ids])
        order = np.argsort(every, kind="stable")
        row = np.empty(len(every), np.int64)  # row[i] = where the i-th of old + new went
        row[order] = np.arange(len(every))
        rows = np.ascontiguousarray(np.concatenate([old.packed, new])[order])
        if not old.answering.is_made:
            return self._put_off(every[order], rows, len(new_ids))
        backend = None
        if len(old.ids):
            labels = np.arange(len(old.row_of), len(old.row_of) + len(new))
            backend = self._extend(old.backend, new, labels)
        if backend is None:
            self._state = State(every[order], rows, Backend.of(self._build(rows)), np.arange(len(every)))
            return self._changed("add", len(new_ids), rebuilt=old.backend is not None)
        moved = np.where(old.row_of >= 0, row[old.row_of], -1)
        self._state = State(every[order], rows, Backend.of(backend), np.concatenate([moved, row[len(old.ids) :]]))
        return self._changed("add", len(new_ids), rebuilt=False)

    def remove(self, ids: Ids) -> Change:
        old = self._state
        gone_ids = checked_ids(ids)
        missing = ~np.isin(gone_ids, old.ids)
        if missing.any():
            raise UserError(f"{_some(gone_ids[missing])} not in the index", allowed=f"the {len(old.ids)} ids in it")
        if not len(gone_ids):
            return Change(0, False)
        kept = ~np.isin(old.ids, gone_ids)
        rows = np.ascontiguousarray(old.packed[kept])
        if not kept.any():
            self._state = self._empty()
            return Change(len(gone_ids), False)
        if not old.answering.is_made:
            return self._put_off(old.ids[kept], rows, len(gone_ids))
        dropped = np.flatnonzero((old.row_of >= 0) & ~kept[old.row_of])
        backend = self._drop(old.backend, dropped)
        if backend is None:
            self._state = State(old.ids[kept], rows, Backend.of(self._build(rows)), np.arange(len(rows)))
            return self._changed("remove", len(gone_ids), rebuilt=old.backend is not None)
        new_row = np.where(kept, np.cumsum(kept) - 1, -1)
        row_of = np.where(old.row_of >= 0, new_row[old.row_of], -1)
        self._state = State(old.ids[kept], rows, Backend.of(backend), row_of)
        return self._changed("remove", len(gone_ids), rebuilt=False)

    def _put_off(self, ids: Ids, rows: Packed, count: int) -> Change:
        """Other rows, before there was a backend over the old ones: it is built over these when it is asked."""
        self._state = State(ids, rows, Backend(lambda: self._build(rows)), np.arange(len(ids)))
        return Change(count, False)

    def _changed(self, verb: str, rows: int, *, rebuilt: bool) -> Change:
        note = f"{self.name} was built again over {len(self)} rows to {verb} {rows}" if rebuilt else ""
        if note:
            log.info(note)
        return Change(rows, rebuilt, note)

    def search(self, packed: Packed, k: int) -> tuple[Distances, Ids]:
        state = self._state
        distances, rows = self._search(state, packed, k)
        return distances, state.ids[rows]

    def search_rows(self, packed: Packed, k: int) -> tuple[Distances, Ints]:
        """As `search`, with rows of `ids` in place of ids: cheaper by far for large k."""
        return self._search(self._state, packed, k)

    def range_search(self, packed: Packed, radius: int) -> list[tuple[Distances, Ids]]:
        state = self._state
        found = []
        for query, rows in zip(packed, self._rows_within(state, packed, radius), strict=True):
            distances = hamming(query, state.packed[rows])
            order = np.argsort(distances, kind="stable")
            found.append((distances[order], state.ids[rows[order]]))
        return found

    def rows_within(self, packed: Packed, radius: int) -> list[Ints]:
        """Rows of `ids` within `radius` bits of each query, ascending: cheaper by far than `range_search`."""
        return self._rows_within(self._state, packed, radius)

    def _rows_within(self, state: State, packed: Packed, radius: int) -> list[Ints]:
        queries = self._checked(packed)
        require_rows(len(state.ids))
        if not 0 <= radius <= self.nbits:
            raise UserError(f"radius {radius} among codes of {self.nbits} bits", allowed=f"0 to {self.nbits}")
        return self._within(state, queries, radius)

    def distances_to(self, packed: Packed, rows: Ints) -> Distances:
        """(q, m) Hamming distances of (q, nbits/8) codes to rows (q, m) of `ids`: the second stage of `TwoStage`."""
        state = self._state
        queries = self._checked(packed)
        return np.stack([hamming(query, state.packed[mine]) for query, mine in zip(queries, rows, strict=True)])

    def _search(self, state: State, packed: Packed, k: int) -> tuple[Distances, Ints]:
        queries = self._checked(packed)
        k = at_most(k, len(state.ids))
        distances, labels = self._nearest(state, queries, k)
        rows = np.where(labels >= 0, state.row_of[labels], -1)
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            from pipeline.search.kernels import nearest

            log.info(
                "%s found fewer than %d neighbours for %d of %d queries: scanned for those",
                self.name,
                k,
                len(short),
                len(queries),
            )
            distances[short], rows[short] = nearest(queries[short], state.packed, k)
        order = np.lexsort((rows, distances), axis=1)
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _checked(self, packed: Packed) -> Packed:
        """C-contiguous (n, nbits/8) uint8. Raises UserError for any other type or width."""
        if packed.dtype != np.uint8 or packed.ndim != 2:
            raise UserError(f"packed bits are {packed.dtype} of shape {packed.shape}", allowed="uint8 (n, nbits/8)")
        if packed.shape[1] * 8 != self.nbits:
            raise UserError(
                f"codes of {packed.shape[1] * 8} bits for an index of {self.nbits}",
                allowed="codes of the hasher that the index was made with",
                see="`cnncodes index info`",
            )
        return np.ascontiguousarray(packed)


def hamming(query: Packed, packed: Packed) -> Distances:
    """(w,) against (n, w) -> (n,)."""
    distances: Distances = np.bitwise_count(query ^ packed).sum(axis=1, dtype=np.int32)
    return distances


def at_most(k: int, n: int) -> int:
    """How many neighbours k asks for among n rows. Raises UserError for an empty collection, or k below 1."""
    require_rows(n)
    require_k(k)
    return min(k, n)


def require_k(k: int) -> None:
    """Raises UserError for k below 1."""
    if k < 1:
        raise UserError(f"k = {k}", allowed="1 or more")


def require_settings(kind: str, limits: Mapping[str, tuple[int, int]], settings: Mapping[str, object]) -> None:
    """Raises UserError on settings that are not whole numbers from the least to the most that they may be: a stranger's
    index could ask for all memory or time.
    """
    wrong = [
        f"{name} {settings[name]!r}"
        for name, (least, most) in limits.items()
        if type(value := settings[name]) is not int or not least <= value <= most
    ]
    if wrong:
        allowed = (f"{name} {least:,} to {most:,}" for name, (least, most) in limits.items())
        raise UserError(f"index {kind} with {', '.join(wrong)}", allowed=allowed, see="docs/params.md")


def require_rows(n: int) -> None:
    """Raises UserError for an empty collection."""
    if n == 0:
        raise UserError("the collection is empty", allowed="at least one image", see="`cnncodes index add`")


def checked_ids(ids: Ids) -> Ids:
    """(n,) str. Raises UserError if they are not strings, are empty, or repeat."""
    ids = np.asarray(ids)
    if not ids.size:
        return np.zeros(0, np.str_)
    if ids.dtype.kind != "U" or ids.ndim != 1:
        raise UserError(f"ids are {ids.dtype} of shape {ids.shape}", allowed="one string a row")
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{_some(unique[counts > 1])} more than once", allowed="ids that differ")
    if unique[0] == "":
        raise UserError("an empty id", allowed="at least one character")
    return ids


def _some(ids: Ids) -> str:
    shown = ", ".join(repr(str(i)) for i in ids[:3])
    return f"ids {shown}{f' and {len(ids) - 3} more' if len(ids) > 3 else ''} are"
