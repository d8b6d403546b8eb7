"""Groups of near-identical images: all pairs within a Hamming radius, joined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.collection import Collection
from pipeline.collection.methods import Method, choose
from pipeline.errors import UserError
from pipeline.index import make

# Of the bits in which two topk codes can differ, twice k = 512. The same drawing saved as JPEG (quality 90 and 50) or a
# tenth brighter: at most 46 of them at 96 px (4,608 bits, 60 drawings), 76 at 224 px (25,088 bits, 18 drawings), where
# unrelated ones differ in 256 or more. Finer maps move more, so they are given more room.
_TOPK_SHARE, _TOPK_SHARE_FINE, _FINE_NBITS = 0.08, 0.16, 8192
# Of short codes and sigmoid's, whose density varies: a coarser sieve. Sigmoid bits of the same pictures: at most 62.
_SHORT_RADIUS, _SIGMOID_SHARE = 2, 0.009
# Pairs are proposed by the short code where they differ in up to this many bits.
PROPOSED_WITHIN = 7
_TABLE_BITS = 16
_BATCH = 4096


def duplicates(
    collection: Collection, *, radius: int | None = None, method: str | None = None
) -> tuple[list[list[int]], int]:
    """Groups of rows, each sorted by id, the largest group first; and the radius that was used.

    Two images are near-identical if they differ in at most `radius` bits; groups are joined by such pairs, so that the
    ends of a chain may differ in more. Long codes are compared where the short codes differ in up to PROPOSED_WITHIN
    bits, which spares comparing all pairs. Raises UserError for a method without bits, or a radius it can't have.
    """
    chosen = choose(collection.methods, method)
    if method is None and chosen.kind != "hamming":
        chosen = choose(collection.methods, collection.made_by["short"]["hasher"])
    if chosen.kind != "hamming":
        allowed = [m.name for m in collection.methods.values() if m.kind == "hamming"]
        raise UserError(f"duplicates by method {chosen.name}, which has no bits", allowed=allowed)
    radius = default_radius(collection, chosen) if radius is None else radius
    chosen.check_radius(radius)
    short = collection.made_by["short"]["hasher"]
    if len(collection) < 2:
        return [], radius
    pairs = _pairs(collection.packed(short), radius if chosen.name == short else PROPOSED_WITHIN)
    if chosen.name != short:
        packed = collection.packed(chosen.name)
        near = np.bitwise_count(packed[pairs[:, 0]] ^ packed[pairs[:, 1]]).sum(axis=1, dtype=np.int64) <= radius
        pairs = pairs[near]
    return _joined(pairs, len(collection)), radius


def default_radius(collection: Collection, method: Method) -> int:
    """Bits within which images count as near-identical."""
    if method.name == "topk":
        share = _TOPK_SHARE_FINE if method.nbits > _FINE_NBITS else _TOPK_SHARE
        return int(share * 2 * collection.made_by["long"]["topk"]["params"]["k"])
    return int(_SIGMOID_SHARE * method.nbits) if method.name == "sigmoid" else _SHORT_RADIUS


def _pairs(packed: NDArray[np.uint8], radius: int) -> NDArray[np.int64]:
    """(p, 2) all rows i < j that differ in at most `radius` bits."""
    nbits = packed.shape[1] * 8
    tables = nbits // _TABLE_BITS
    rows = np.char.zfill(np.arange(len(packed)).astype(str), 20)
    # With flips other bits in a bucket's address, all within tables * (flips + 1) - 1 bits are found.
    flips = radius // tables if tables else _TABLE_BITS
    if flips <= 1:
        index = make("multihash", nbits, tables=tables, table_bits=_TABLE_BITS, flips=flips)
    else:
        index = make("exact", nbits)
    index.add(packed, rows)
    found = []
    for start in range(0, len(packed), _BATCH):
        answers = index.range_search(packed[start : start + _BATCH], radius)
        for i, (_, ids) in enumerate(answers, start=start):
            others = ids.astype(np.int64)
            others = others[others > i]
            found.append(np.stack([np.full(len(others), i), others], axis=1))
    return np.concatenate(found)


def _joined(pairs: NDArray[np.int64], count: int) -> list[list[int]]:
    """Connected groups of two rows or more, the largest first, then by first row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    number = connected_components(graph, directed=False)[1]
    order = np.argsort(number, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    return sorted((g.tolist() for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0]))
