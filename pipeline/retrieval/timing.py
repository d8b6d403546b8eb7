"""How long a query takes, alone and in a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BATCH, _BATCHES = 100, 10


def query_times(search: Callable[[NDArray[Any]], object], queries: NDArray[Any], count: int) -> dict[str, float]:
    """Milliseconds a query, median and 99th percentile: of `count` searches for one, and of 10 batches of 100.

    Queries are taken in turn, again from the first where there are too few. Hashing the query is not part of it.
    """
    search(queries[:1])  # loads what the index loads on first use
    alone = _times(search, queries, count, 1)
    search(queries[np.arange(_BATCH) % len(queries)])
    batches = _times(search, queries, _BATCHES, _BATCH)
    return {
        "query_p50_ms": float(np.quantile(alone, 0.5)),
        "query_p99_ms": float(np.quantile(alone, 0.99)),
        "batch_p50_ms": float(np.quantile(batches, 0.5)),
        "batch_p99_ms": float(np.quantile(batches, 0.99)),
    }


def _times(
    search: Callable[[NDArray[Any]], object], queries: NDArray[Any], count: int, batch: int
) -> NDArray[np.float64]:
    """(count,) ms a query."""
    times = np.empty(count)
    for i in range(count):
        rows = queries[np.arange(i * batch, (i + 1) * batch) % len(queries)]
        start = time.perf_counter()
        search(rows)
        times[i] = 1000 * (time.perf_counter() - start) / batch
    return times
