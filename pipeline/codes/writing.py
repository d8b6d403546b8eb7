"""From batches to shards: rows are gathered into whole shards, and one thread writes while the next is gathered."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codes.store import Digests, Store


class ShardWriter:
    """Appends to several stores the same images, `shard_rows` at a time. Memory: two shards of each store."""

    def __init__(self, stores: Mapping[str, Store], shard_rows: int) -> None:
        self._stores = dict(stores)
        self._shard_rows = shard_rows
        self._shard = _Shard(self._stores, shard_rows)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The last shard is written whatever its size, unless the run failed."""
        try:
            if kind is None:
                self._flush()
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
            self._flush()

    def _flush(self) -> None:
        self._wait()
        if self._shard.filled:
            self._writing = self._pool.submit(self._shard.write, self._stores)
        self._shard = _Shard(self._stores, self._shard_rows)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()


class _Shard:
    """Rows that will be one shard of each store. `seen` counts failed images too, so that shards hold whole batches."""

    def __init__(self, stores: Mapping[str, Store], rows: int) -> None:
        self.seen = 0
        self.filled = 0
        self.notes: dict[str, Any] = {}
        self._digests: list[Digests] = []
        self._rows: dict[str, NDArray[Any]] = {n: np.empty((rows, s.dim), dtype=s.dtype) for n, s in stores.items()}

    def add(self, digests: Digests, rows: Mapping[str, NDArray[Any]], good: NDArray[np.bool_]) -> None:
        stop = self.filled + int(good.sum())
        for name, buffer in self._rows.items():
            buffer[self.filled : stop] = rows[name][: len(digests)][good]
        self._digests.append(digests[good])
        self.filled = stop
        self.seen += len(digests)

    def write(self, stores: Mapping[str, Store]) -> None:
        digests = np.concatenate(self._digests)
        for name, store in stores.items():
            store.append(digests, self._rows[name][: self.filled], notes=self.notes)
