"""What an approximate index finds of the true neighbours, and how fast."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.skipped import Skipped
from pipeline.config import ApproximateIndex
from pipeline.retrieval.timing import query_times
from pipeline.search import make
from pipeline.search.base import PackedIndex

log = logging.getLogger(__name__)

# Longer codes are searched exactly, as one matrix product; hash tables and graphs are for short ones.
LONGEST_BITS = 512


def approximate(
    exact: PackedIndex,
    queries: NDArray[np.uint8],
    k: int,
    settings: Mapping[ApproximateIndex, Mapping[str, int]],
    *,
    timed: int,
) -> dict[str, dict[str, Any]]:
    """Index name -> `recall`, `build_s`, `query_p50_ms`, `query_p99_ms`, over the rows of `exact`; {} for long codes.

    queries (q, nbits/8). Recall is by distance: the share of the k places of a query that hold a row no farther than
    its k-th nearest, so that which of the equally far are named makes no difference. An index whose settings don't fit
    codes of this length has {"skipped": why}.
    """
    if exact.nbits > LONGEST_BITS:
        return {}
    farthest = exact.search_rows(queries, k)[0][:, -1:]
    found: dict[str, dict[str, Any]] = {}
    for name, values in settings.items():
        try:
            index = make(name, exact.nbits, **values)
        except UserError as e:
            log.info("%s: skipped: %s", name, e)
            found[name] = Skipped(str(e)).record()
            continue
        start = time.perf_counter()
        index.add(exact.packed, exact.ids)
        build_s = time.perf_counter() - start
        distances, _ = index.search_rows(queries, k)
        times = query_times(partial(index.search_rows, k=k), queries, timed)
        found[name] = {
            "recall": float(np.mean(distances <= farthest)),
            "build_s": build_s,
            "query_p50_ms": times["query_p50_ms"],
            "query_p99_ms": times["query_p99_ms"],
        }
    return found
