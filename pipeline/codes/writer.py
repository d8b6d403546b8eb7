"""From batches to shards: rows are gathered into whole shards, and one thread writes while the next is gathered.

What is gathered is kept every half a minute as well, in a shard that the next one replaces: a run that is killed loses
no more, and the store ends up with the same whole shards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.stopping import Timer
from pipeline.codes.store import Digests, Store


class ShardWriter:
    """Appends to several stores the same images, `shard_rows` at a time. Memory: two shards of each store."""

    def __init__(self, stores: Mapping[str, Store], shard_rows: int) -> None:
        self._stores = dict(stores)
        self._shard_rows = shard_rows
        self._shard = _Shard(self._stores, shard_rows)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None
        self._timer = Timer()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The last shard is written whatever its size. What the run failed by is told before a failure to write."""
        try:
            with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
                self._keep()
                self._wait()
        finally:
            self._pool.shutdown()

    def add(
        self, digests: Digests, rows: Mapping[str, NDArray[Any]], good: NDArray[np.bool_], *, notes: Mapping[str, Any]
    ) -> None:
        """`digests` (n,) of a batch's images, `rows` at least n a store, `good` (n,) whether an image has a row.

        Raises what the writing thread raised, UserError for a full disk.
        """
        self._shard.add(digests, rows, good)
        self._shard.notes |= notes
        if self._shard.seen >= self._shard_rows:
            self._keep()
            self._shard = _Shard(self._stores, self._shard_rows)
        elif self._timer.is_due() and (self._writing is None or self._writing.done()):
            self._keep()

    def _keep(self) -> None:
        """Begins to write what the shard holds so far."""
        self._wait()
        if self._shard.filled > self._shard.kept:
            self._writing = self._pool.submit(self._shard.write, self._stores, self._shard.filled)
        self._timer.written()

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()


class _Shard:
    """Rows that will be one shard of each store. `seen` counts failed images too, so that shards hold whole batches;
    `kept` of the `filled` rows are in the stores.
    """

    def __init__(self, stores: Mapping[str, Store], rows: int) -> None:
        self.seen = 0
        self.filled = 0
        self.kept = 0
        self.notes: dict[str, Any] = {}
        self._digests: list[Digests] = []
        self._rows: dict[str, NDArray[Any]] = {n: np.empty((rows, s.dim), dtype=s.dtype) for n, s in stores.items()}
        self._names: dict[str, str] = {}

    def add(self, digests: Digests, rows: Mapping[str, NDArray[Any]], good: NDArray[np.bool_]) -> None:
        """Wherever a stop interrupts it, the first `filled` rows are whole."""
        stop = self.filled + int(good.sum())
        for name, buffer in self._rows.items():
            buffer[self.filled : stop] = rows[name][: len(digests)][good]
        self._digests.append(digests[good])
        self.filled = stop
        self.seen += len(digests)

    def write(self, stores: Mapping[str, Store], filled: int) -> None:
        """The first `filled` rows, in the place of fewer of them."""
        digests = np.concatenate(list(self._digests))[:filled]
        for name, store in stores.items():
            before = self._names.get(name)
            self._names[name] = store.append(digests, self._rows[name][:filled], notes=self.notes, instead_of=before)
        self.kept = filled
