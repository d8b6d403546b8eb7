"""Exact Hamming neighbours over packed rows: the k smallest by (distance, row), and all within a radius.

Three ways to the same integers, chosen by what is fastest on this machine: a popcount scan, cut into one part a
thread even for one query; for a batch of long codes an int8 matrix product, where the processor has instructions for
it; and where numba is installed (the extra `fast`) a popcount in vector instructions.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Packed = NDArray[np.uint8]
Ints = NDArray[np.int64]
Distances = NDArray[np.int32]
Nearest = tuple[Distances, Ints]

# A product reads each row once for all queries, after unpacking it eightfold: worth it from about these on.
_PRODUCT_MIN_QUERIES, _PRODUCT_MIN_NBITS = 64, 512
_BLOCK_BYTES = 32 << 20
# Loading the compiled kernel takes about a second, which a scan of this many bytes takes as well.
_COMPILED_MIN_BYTES = 4 << 30
# It keeps the best in order by insertion, which long lists make slow.
_COMPILED_MAX_K = 1024


def nearest(queries: Packed, packed: Packed, k: int) -> Nearest:
    """(q, w), (n, w), k <= n -> distances and rows, both (q, k), the k smallest by (distance, row), in that order."""
    return KERNELS[choose(len(queries), len(packed), packed.shape[1], k)](queries, packed, k)


def choose(queries: int, rows: int, width: int, k: int) -> str:
    """The fastest of `KERNELS` here, for rows of `width` bytes. All give the same answers, so this is no setting."""
    if queries >= _PRODUCT_MIN_QUERIES and width * 8 >= _PRODUCT_MIN_NBITS and has_int8_products():
        return "product"
    loaded = "pipeline.search.compiled" in sys.modules
    if (
        width % 32 == 0
        and k <= _COMPILED_MAX_K
        and (loaded or queries * rows * width >= _COMPILED_MIN_BYTES)
        and has_compiler()
    ):
        return "compiled"
    return "scan"


@cache
def has_compiler() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@cache
def has_int8_products() -> bool:
    """Whether int8 matrix products have instructions of their own (AMX or VNNI); torch's fallback is far slower."""
    import torch

    asks = ("_is_amx_tile_supported", "_is_vnni_supported", "_is_avx512_vnni_supported")
    return any(bool(getattr(torch.cpu, ask)()) for ask in asks if hasattr(torch.cpu, ask))


def warm() -> None:
    """Loads the compiled kernel where there is one: for a process that will answer many queries, one at a time."""
    if has_compiler():
        compiled(np.zeros((1, 32), np.uint8), np.zeros((1, 32), np.uint8), 1)


def scan(queries: Packed, packed: Packed, k: int) -> Nearest:
    """By popcount. Each thread takes a part of the rows, and one merge orders what they found."""
    faiss = _faiss()
    threads = min(_cores(), max(1, len(packed) // max(k, 4096)))
    bounds = np.linspace(0, len(packed), threads + 1).astype(int)

    def part(i: int) -> Nearest:
        faiss.omp_set_num_threads(1)  # of this worker thread alone
        rows = packed[bounds[i] : bounds[i + 1]]
        distances, found = faiss.knn_hamming(queries, rows, min(k, len(rows)))
        return distances, found + bounds[i]

    if threads == 1:
        distances, rows = faiss.knn_hamming(queries, packed, k)
        return first_k(distances, rows, k)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(part, range(threads)))
    return first_k(np.concatenate([d for d, _ in parts], axis=1), np.concatenate([r for _, r in parts], axis=1), k)


def compiled(queries: Packed, packed: Packed, k: int) -> Nearest:
    """By popcount in vector instructions, for rows of a multiple of 32 bytes. Raises ImportError without numba."""
    from pipeline.search.compiled import search

    return first_k(*search(queries, packed, k, _cores()), k)


def product(queries: Packed, packed: Packed, k: int) -> Nearest:
    """By |q| + |x| - 2 q.x over 0/1 bytes: int8 times int8 summed in int32 is exact.

    While one block of rows is multiplied the next is unpacked. After the first block only distances below the k-th
    so far are looked at: later rows are higher, so at an equal distance they lose.
    """
    import torch

    nbits = packed.shape[1] * 8
    step = max(k, 256, _BLOCK_BYTES // nbits)
    q = torch.from_numpy(np.unpackbits(queries, axis=1).view(np.int8))
    q_counts = torch.from_numpy(np.bitwise_count(queries).sum(axis=1, dtype=np.int32))[:, None]

    def unpacked(start: int) -> tuple[Any, Any]:
        rows = packed[start : start + step]
        bits = torch.from_numpy(np.unpackbits(rows, axis=1).view(np.int8))
        return bits, torch.from_numpy(np.bitwise_count(rows).sum(axis=1, dtype=np.int32))

    best: Nearest | None = None
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(unpacked, 0)
        for start in range(0, len(packed), step):
            bits, counts = coming.result()
            if start + step < len(packed):
                coming = pool.submit(unpacked, start + step)
            distances = torch._int_mm(q, bits.t()).mul_(-2).add_(q_counts).add_(counts)
            best = _merge(best, distances, start, k)
    if best is None:
        raise ValueError("no rows")
    return best


def _merge(best: Nearest | None, distances: Any, start: int, k: int) -> Nearest:
    """The k first of what was found before and of a block's (q, b) distances, a torch tensor, to rows from start."""
    import torch

    if best is None:
        # One integer that orders as (distance, row) does; all differ, so the choice at k is not left to the sort.
        key = (distances.long() << 32) | torch.arange(distances.shape[1])
        top = torch.topk(key, k, dim=1, largest=False, sorted=True).values.numpy()
        return (top >> 32).astype(np.int32), top & 0xFFFFFFFF
    worst = torch.from_numpy(np.ascontiguousarray(best[0][:, -1:]))
    at, column = (a.numpy() for a in torch.nonzero(distances < worst, as_tuple=True))
    if not len(at):
        return best
    # Every changed query's candidates in one row, filled up with distances beyond any.
    changed, counts = np.unique(at, return_counts=True)
    place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    where = np.repeat(np.arange(len(changed)), counts), place
    d = np.full((len(changed), counts.max()), np.iinfo(np.int32).max, np.int32)
    r = np.zeros(d.shape, np.int64)
    d[where], r[where] = distances.numpy()[at, column], column + start
    best[0][changed], best[1][changed] = first_k(
        np.concatenate([best[0][changed], d], axis=1), np.concatenate([best[1][changed], r], axis=1), k
    )
    return best


def first_k(distances: Distances, rows: Ints, k: int) -> Nearest:
    """(q, m) candidates, m >= k -> the first k by (distance, row)."""
    order = np.lexsort((rows, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)


def rows_within(queries: Packed, packed: Packed, radius: int) -> list[Ints]:
    """Rows of (n, w) at a distance of at most `radius` from each of (q, w), ascending; memory bounded by blocks."""
    faiss = _faiss()
    n, width = packed.shape
    step = min(n, 1 << 18)
    result: list[Ints] = []
    distances = np.empty((1, step), np.int32)
    for query in queries:
        found = []
        for start in range(0, n, step):
            rows = packed[start : start + step]
            faiss.hammings(faiss.swig_ptr(query), faiss.swig_ptr(rows), 1, len(rows), width, faiss.swig_ptr(distances))
            found.append(np.flatnonzero(distances[0, : len(rows)] <= radius) + start)
        result.append(np.concatenate(found))
    return result


KERNELS: dict[str, Callable[[Packed, Packed, int], Nearest]] = {"scan": scan, "product": product, "compiled": compiled}


def _faiss() -> Any:
    import faiss

    return faiss


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
