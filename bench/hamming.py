"""Hamming search: ratios from one run, each with its answers checked.

    python -m bench.hamming                       # all parts, about 5 minutes on two cores, 3 GB
    python -m bench.hamming --parts approximate --bits 64,128,256 --codes out/retrieval/itq256-conv5_3-avg/bits.h5

single       one query over rows x 4,608 bits, against the time to read those bytes from memory; at most 1.3
batch        1,000 such queries at once, against faiss.IndexBinaryFlat; at least 3 times as fast, the same answers
approximate  short codes: base codes and bit-flipped copies of them, against IndexBinaryFlat; at least 20 times as
             fast at recall@10 (by distance) of .95. Settings are chosen on other queries than those reported.
defaults     each kind of index as `index build --index KIND` makes it, and its recall as `index info` gives it
map          mAP over all of 50,000 for 10,000 queries, ties by expectation; under a minute, in bounded memory
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline.config import IndexParams
from pipeline.hashing.save import read_bits
from pipeline.retrieval.measures import by_class
from pipeline.retrieval.ranking import Classes, HammingRanking
from pipeline.search import INDEXES, PackedIndex, make
from pipeline.search.kernels import choose, nearest, warm
from pipeline.search.recall import measured

Packed = NDArray[np.uint8]
K = 10
RECALL = 0.95
LONG_BITS = 4608


def tables(nbits: int) -> list[dict[str, int]]:
    """Settings of `multihash` from the fastest to the surest: by the share of the rows that a query looks at."""
    grid = [
        {"tables": nbits // bits // part, "table_bits": bits, "flips": 0}
        for bits in (20, 16, 14, 12, 10)
        for part in (2, 1)
    ]
    return sorted(grid, key=lambda s: s["tables"] / 2 ** s["table_bits"])


# The fastest that reaches RECALL on the queries for choosing is taken. (Fewer rows a bucket are not always faster:
# queries that find fewer than k are scanned.)
GRIDS: dict[str, Callable[[int], list[dict[str, int]]]] = {
    "multihash": tables,
    "ivf": lambda nbits: [{"lists": 4096, "probes": probes} for probes in (4, 8, 16, 32)],
    "hnsw": lambda nbits: [{"links": 16, "build_width": 60, "search_width": width} for width in (32, 64, 128)],
}


def best_s(work: Callable[[], object], repeats: int) -> float:
    """The shortest of `repeats` runs in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def require(holds: bool, what: str) -> None:
    """A figure of wrong answers is no figure."""
    if not holds:
        raise SystemExit(f"wrong answers: {what}")


def single(rows: int, repeats: int, rng: np.random.Generator) -> dict[str, Any]:
    packed = rng.integers(0, 256, (rows, LONG_BITS // 8), dtype=np.uint8)
    query = packed[rows // 2 :][:1] ^ (rng.random((1, LONG_BITS // 8)) < 0.2).astype(np.uint8)
    words = packed.view(np.uint64).ravel()
    cores = len(os.sched_getaffinity(0))
    parts = np.array_split(words, cores)
    with ThreadPoolExecutor(cores) as pool:
        read_s = best_s(lambda: list(pool.map(np.sum, parts)), repeats)
    search_s = best_s(lambda: nearest(query, packed, K), repeats)
    flat = faiss.IndexBinaryFlat(LONG_BITS)
    flat.add(packed)
    flat_s = best_s(lambda: flat.search(query, K), repeats)
    truth = np.concatenate(
        [np.bitwise_count(packed[s : s + 4096] ^ query).sum(axis=1, dtype=np.int64) for s in range(0, rows, 4096)]
    )
    order = np.argsort(truth, kind="stable")[:K]
    distances, found = nearest(query, packed, K)
    require(found[0].tolist() == order.tolist() and distances[0].tolist() == truth[order].tolist(), "single")
    return {
        "rows": rows,
        "read_GB_per_s": packed.nbytes / read_s / 1e9,
        "read_ms": read_s * 1e3,
        "search_ms": search_s * 1e3,
        "search_over_read": search_s / read_s,
        "flat_over_search": flat_s / search_s,
    }


def batch(rows: int, queries: int, repeats: int, rng: np.random.Generator) -> dict[str, Any]:
    packed = rng.integers(0, 256, (rows, LONG_BITS // 8), dtype=np.uint8)
    asked = packed[rng.integers(0, rows, queries)] ^ (rng.random((queries, LONG_BITS // 8)) < 0.2).astype(np.uint8)
    flat = faiss.IndexBinaryFlat(LONG_BITS)
    flat.add(packed)
    flat_s = best_s(lambda: flat.search(asked, K), repeats)
    search_s = best_s(lambda: nearest(asked, packed, K), repeats)
    # The flat index's order of ties is its own; distances must be equal.
    require(np.array_equal(flat.search(asked, K)[0], nearest(asked, packed, K)[0]), "batch")
    return {
        "rows": rows,
        "queries": queries,
        "kernel": choose(queries, rows, packed.shape[1], K),
        "flat_s": flat_s,
        "search_s": search_s,
        "flat_over_search": flat_s / search_s,
    }


def made_of(base: Packed, rows: int, flip: float, rng: np.random.Generator) -> Packed:
    """The base codes, then copies of them with each bit flipped with probability `flip`."""
    result = np.empty((rows, base.shape[1]), np.uint8)
    result[: len(base)] = base[:rows]
    for start in range(len(base), rows, 1 << 16):
        stop = min(rows, start + (1 << 16))
        result[start:stop] = flipped(base[rng.integers(0, len(base), stop - start)], flip, rng)
    return result


def flipped(packed: Packed, share: float, rng: np.random.Generator) -> Packed:
    return packed ^ np.packbits(rng.random((len(packed), packed.shape[1] * 8), np.float32) < share, axis=1)


def base_codes(nbits: int, path: Path | None, rng: np.random.Generator) -> Packed:
    """60,000 codes: of a bits file, or drawn in 1,000 clusters, as the codes of images lie."""
    if path is not None:
        packed = read_bits(path).packed
        if packed.shape[1] * 8 < nbits:
            raise SystemExit(f"{path} holds codes of {packed.shape[1] * 8} bits, fewer than {nbits}")
        return np.unique(packed[:, : nbits // 8], axis=0)
    centres = rng.integers(0, 256, (1000, nbits // 8), dtype=np.uint8)
    return flipped(centres[rng.integers(0, 1000, 60_000)], 0.2, rng)


def one_by_one(search: Callable[[Packed, int], object], queries: Packed) -> None:
    for query in queries:
        search(query[None], K)


def approximate(args: argparse.Namespace, nbits: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    base = base_codes(nbits, args.codes, rng)
    packed = made_of(base, args.rows, args.flip, rng)
    # Copies of their own, in no collection: half to choose the settings by, half to report.
    asked = flipped(base[rng.integers(0, len(base), 2 * args.queries)], args.flip, rng)
    choosing, reported = asked[: args.queries], asked[args.queries :]
    flat = faiss.IndexBinaryFlat(nbits)
    flat.add(packed)
    worst = {name: flat.search(part, K)[0][:, -1:] for name, part in (("c", choosing), ("r", reported))}
    ids = np.array([f"{i:07d}" for i in range(len(packed))])

    def recall(distances: NDArray[np.int32], kth: NDArray[np.int32]) -> float:
        return float(np.mean(distances <= kth))

    for name in args.indexes:
        chosen: tuple[float, float, PackedIndex] | None = None
        for settings in GRIDS[name](nbits):
            index = make(name, nbits, **settings)
            start = time.perf_counter()
            index.add(packed, ids)
            build_s = time.perf_counter() - start
            start = time.perf_counter()
            distances, _ = index.search_rows(choosing, K)
            search_s = time.perf_counter() - start
            # A margin for the chance in the queries for choosing.
            if recall(distances, worst["c"]) >= RECALL + 0.01:
                chosen = min(chosen or (np.inf, 0.0, index), (search_s, build_s, index), key=lambda c: c[0])
        if chosen is None:
            yield {"index": name, "nbits": nbits, "rows": len(packed), "recall_at_10": f"below {RECALL}"}
            continue
        _, build_s, index = chosen
        search_s = best_s(partial(index.search_rows, reported, K), args.repeats)
        flat_s = best_s(lambda: flat.search(reported, K), args.repeats)
        one_s = best_s(partial(one_by_one, index.search_rows, reported[:100]), args.repeats)
        flat_one_s = best_s(partial(one_by_one, flat.search, reported[:20]), args.repeats)
        distances, rows = index.search_rows(reported, K)
        true = np.bitwise_count(reported[:, None] ^ packed[rows]).sum(axis=2)
        require(np.array_equal(true, distances), f"{name} {nbits}")
        yield {
            "index": name,
            "nbits": nbits,
            "rows": len(packed),
            "settings": index.settings(),
            "build_s": build_s,
            "recall_at_10": recall(distances, worst["r"]),
            "ms_a_query_in_batch": search_s / len(reported) * 1e3,
            "ms_a_query_alone": one_s * 10,
            "flat_over_search_in_batch": flat_s / search_s,
            "flat_over_search_alone": (flat_one_s / 20) / (one_s / 100),
        }


def defaults(args: argparse.Namespace, nbits: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    packed = made_of(base_codes(nbits, args.codes, rng), args.default_rows, args.flip, rng)
    asked = flipped(packed[rng.integers(0, len(packed), 500)], args.flip, rng)
    ids = np.array([f"{i:07d}" for i in range(len(packed))])
    for name in INDEXES:
        settings = IndexParams.model_validate({"kind": name}).settings
        index = make(name, nbits, **settings)
        start = time.perf_counter()
        index.add(packed, ids)
        build_s = time.perf_counter() - start
        yield {
            "index": name,
            "nbits": nbits,
            "rows": len(packed),
            "settings": settings,
            "build_s": build_s,
            "ms_a_query_alone": best_s(partial(one_by_one, index.search_rows, asked), args.repeats) / len(asked) * 1e3,
            "recall_at_10": measured(index).recall_at_10,
        }


def whole_map(rows: int, queries: int, nbits: int, rng: np.random.Generator) -> dict[str, Any]:
    database = rng.integers(0, 256, (rows, nbits // 8), dtype=np.uint8)
    asked = rng.integers(0, 256, (queries, nbits // 8), dtype=np.uint8)
    classes = Classes(rng.integers(0, 10, queries), rng.integers(0, 10, rows))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    figures, _ = by_class(HammingRanking(asked, database, np.full(queries, -1)), classes, k=1000, radius=2)
    took_s = time.perf_counter() - start
    # Ten classes by chance: a tenth of any list.
    require(abs(figures["map_all"] - 0.1) < 0.01, "map")
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"rows": rows, "queries": queries, "nbits": nbits, "seconds": took_s, "more_memory_MB": more / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["single", "batch", "approximate", "defaults", "map"]
    parser.add_argument("--parts", type=lambda s: s.split(","), default=names, help=f"of {','.join(names)}")
    parser.add_argument("--long-rows", type=int, default=1_000_000, help="single: rows of 4,608 bits")
    parser.add_argument("--batch-rows", type=int, default=100_000, help="batch: rows of 4,608 bits")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=2_000_000, help="approximate: rows")
    parser.add_argument("--default-rows", type=int, default=100_000, help="defaults: rows")
    parser.add_argument("--bits", type=lambda s: [int(v) for v in s.split(",")], default=[64])
    parser.add_argument("--indexes", type=lambda s: s.split(","), default=["multihash"], help=f"of {','.join(GRIDS)}")
    parser.add_argument("--codes", type=Path, help="bits file of the base codes; drawn ones by default")
    parser.add_argument("--flip", type=float, default=0.02, help="probability of each bit of a copy")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    warm()
    if "single" in args.parts:
        show("single", single(args.long_rows, args.repeats, rng))
    if "batch" in args.parts:
        show("batch", batch(args.batch_rows, args.queries, args.repeats, rng))
    if "approximate" in args.parts:
        for nbits in args.bits:
            for row in approximate(args, nbits, rng):
                show("approximate", row)
    if "defaults" in args.parts:
        for nbits in args.bits:
            for row in defaults(args, nbits, rng):
                show("defaults", row)
    if "map" in args.parts:
        show("map", whole_map(50_000, 10_000, 64, rng))


def show(part: str, row: dict[str, Any]) -> None:
    print(part, json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
