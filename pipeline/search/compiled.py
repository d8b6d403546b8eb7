"""The popcount kernel in vector instructions, compiled at first use: for machines with numba (the extra `fast`).

Counts are kept in bytes, 32 at a time, and summed once a row: on AVX2, where a popcount per byte is two table
look-ups, several times the speed of one per 64-bit word (Mula, Kurz and Lemire 2018). A block of rows stays in the
cache while all queries pass over it. LLVM picks the instructions, so this serves other processors as well.
"""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

# numba has no types of its own; this module is imported only where numba is there.
numba: Any = importlib.import_module("numba")
ir: Any = importlib.import_module("llvmlite.ir")
cgutils: Any = importlib.import_module("numba.core.cgutils")
intrinsic: Any = importlib.import_module("numba.extending").intrinsic

VECTOR_BYTES = 32
# A byte holds 31 counts of at most 8.
_SPAN_BYTES = 31 * VECTOR_BYTES
_GROUP = 4  # queries that share one read of a row
_BLOCK_ROWS = 256


def _counter(group: int) -> Any:
    """An intrinsic that adds the distances of one row to `group` queries onto `group` int32 at `out`.

    row, query and out are addresses; queries lie `stride` bytes apart; `span` bytes are compared, a multiple of 32 up
    to `_SPAN_BYTES`.
    """

    def count(typing: Any, row: Any, query: Any, stride: Any, span: Any, out: Any) -> Any:  # noqa: PLR0917
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, query, stride, span, out = args
            i32, i64 = ir.IntType(32), ir.IntType(64)
            bytes_, wide = ir.VectorType(ir.IntType(8), VECTOR_BYTES), ir.VectorType(i32, VECTOR_BYTES)
            declare = cgutils.get_or_insert_function
            popcount = declare(builder.module, ir.FunctionType(bytes_, [bytes_]), f"llvm.ctpop.v{VECTOR_BYTES}i8")
            total = declare(builder.module, ir.FunctionType(i32, [wide]), f"llvm.vector.reduce.add.v{VECTOR_BYTES}i32")

            def load(address: Any) -> Any:
                return builder.load(builder.inttoptr(address, bytes_.as_pointer()), align=1)

            before = builder.block
            loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            at = builder.phi(i64)
            at.add_incoming(ir.Constant(i64, 0), before)
            sums = [builder.phi(bytes_) for _ in range(group)]
            here = load(builder.add(row, at))
            after = builder.add(at, ir.Constant(i64, VECTOR_BYTES))
            at.add_incoming(after, loop)
            grown = []
            for lane, held in enumerate(sums):
                there = load(builder.add(builder.add(query, builder.mul(stride, ir.Constant(i64, lane))), at))
                held.add_incoming(ir.Constant(bytes_, [0] * VECTOR_BYTES), before)
                grown.append(builder.add(held, builder.call(popcount, [builder.xor(here, there)])))
                held.add_incoming(grown[-1], loop)
            builder.cbranch(builder.icmp_unsigned("<", after, span), loop, done)
            builder.position_at_end(done)
            for lane, held in enumerate(grown):
                cell = builder.inttoptr(builder.add(out, ir.Constant(i64, 4 * lane)), i32.as_pointer())
                counted = builder.call(total, [builder.zext(held, wide)])
                builder.store(builder.add(builder.load(cell), counted), cell)
            return context.get_dummy_value()

        return numba.types.void(*[numba.types.intp] * 5), generate

    return intrinsic(count)


_count_group, _count_one = _counter(_GROUP), _counter(1)


def _search(packed: Any, queries: Any, start: int, stop: int, best: Any, rows: Any) -> None:  # noqa: PLR0917
    """Fills best and rows, (q, k) and at first all at the largest distance, from rows start to stop of `packed`."""
    width, m, k = packed.shape[1], best.shape[0], best.shape[1]
    row_at, query_at = packed.ctypes.data, queries.ctypes.data
    distances = np.zeros((_BLOCK_ROWS, _GROUP), np.int32)
    out_at = distances.ctypes.data
    for first in range(start, stop, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, stop)
        query = 0
        while query < m:
            lanes = _GROUP if m - query >= _GROUP else 1
            distances[:] = 0
            for i in range(first, last):
                for at in range(0, width, _SPAN_BYTES):
                    span = min(_SPAN_BYTES, width - at)
                    x, q = row_at + i * width + at, query_at + query * width + at
                    if lanes == 1:
                        _count_one(x, q, width, span, out_at + (i - first) * 4 * _GROUP)
                    else:
                        _count_group(x, q, width, span, out_at + (i - first) * 4 * _GROUP)
            for lane in range(lanes):
                mine, where = best[query + lane], rows[query + lane]
                for i in range(first, last):
                    d = distances[i - first, lane]
                    if d < mine[k - 1]:
                        # Behind its equals, which have lower rows.
                        place = k - 1
                        while place > 0 and mine[place - 1] > d:
                            mine[place], where[place] = mine[place - 1], where[place - 1]
                            place -= 1
                        mine[place], where[place] = d, i
            query += lanes


_compiled_search = numba.njit(nogil=True, cache=True)(_search)


def search(
    queries: NDArray[np.uint8], packed: NDArray[np.uint8], k: int, threads: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(q, w), (n, w), w a multiple of 32 -> (q, k * threads) candidates, the k first of all rows among them.

    Places that no row took have the largest int32 as distance.
    """
    bounds = np.linspace(0, len(packed), threads + 1).astype(int)
    best = np.full((threads, len(queries), k), np.iinfo(np.int32).max, np.int32)
    rows = np.zeros(best.shape, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(
            lambda t: _compiled_search(packed, queries, bounds[t], bounds[t + 1], best[t], rows[t]), range(threads)
        ):
            pass
    return np.concatenate(list(best), axis=1), np.concatenate(list(rows), axis=1)
