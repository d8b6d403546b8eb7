"""Groups of near-identical images: pairs within a Hamming radius, joined.

Many copies of one image would make pairs without number. So rows of equal codes are joined first, and one of them
stands for all. Of the others a few at a time are asked for what is near them and joined with it, and once a group is
large the rest of it need not be asked: memory grows with the images, never with the pairs, and time hardly does.
"""

from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.collection.collection import Collection
from pipeline.collection.methods import Method, choose
from pipeline.search import PackedIndex, kernels, make

# Of the bits in which two topk codes can differ, twice k = 512. The same drawing saved as JPEG (quality 90 and 50) or a
# tenth brighter: at most 46 of them at 96 px (4,608 bits, 60 drawings), 76 at 224 px (25,088 bits, 18 drawings), where
# unrelated ones differ in 256 or more. Finer maps move more, so they are given more room.
_TOPK_SHARE, _TOPK_SHARE_FINE, _FINE_NBITS = 0.08, 0.16, 8192
# Of short codes and sigmoid's, whose density varies: a coarser sieve. Sigmoid bits of the same pictures: at most 62.
_SHORT_RADIUS, _SIGMOID_SHARE = 2, 0.009
# Pairs are proposed by the short code where they differ in up to this many bits.
PROPOSED_WITHIN = 7
_TABLE_BITS = 16
# Queries at once, and pairs: those that a search may propose at once, and those whose long codes are compared at once.
_QUERIES, _PROPOSED, _COMPARED = 4096, 1 << 23, 1 << 16
# A group is large if it has so many rows, and this share of all: comparing it with other large ones then costs less
# than asking each of its rows, which would answer with the whole group.
_LARGE, _LARGE_SHARE = 1000, 0.025

Packed = NDArray[np.uint8]
Ints = NDArray[np.int64]


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
    packed = [collection.packed(short)]
    reach = [radius if chosen.name == short else PROPOSED_WITHIN]
    if chosen.name != short:
        packed, reach = [*packed, collection.packed(chosen.name)], [*reach, radius]
    same = _first_equal(packed)
    distinct = np.flatnonzero(same == np.arange(len(same)))
    number = _numbered([rows[distinct] for rows in packed], reach)
    return _groups(number[np.searchsorted(distinct, same)]), radius


def default_radius(collection: Collection, method: Method) -> int:
    """Bits within which images count as near-identical."""
    if method.name == "topk":
        share = _TOPK_SHARE_FINE if method.nbits > _FINE_NBITS else _TOPK_SHARE
        return int(share * 2 * collection.made_by["long"]["topk"]["params"]["k"])
    return int(_SIGMOID_SHARE * method.nbits) if method.name == "sigmoid" else _SHORT_RADIUS


def _first_equal(packed: list[Packed]) -> Ints:
    """(n,) for each row the first that is equal in all of `packed`, each (n, w)."""
    first: dict[bytes, int] = {}
    marks = (
        hashlib.blake2b(b"".join(row.tobytes() for row in rows), digest_size=16) for rows in zip(*packed, strict=True)
    )
    return np.array([first.setdefault(mark.digest(), i) for i, mark in enumerate(marks)], dtype=np.int64)


def _numbered(packed: list[Packed], reach: list[int]) -> Ints:
    """(n,) numbers that connected rows share: two rows are connected if each of `packed` differs within its reach."""
    short, within, count = packed[0], reach[0], len(packed[0])
    links = _Links(packed, reach)
    if count < 2:
        return links.number
    index = _index(short, within)
    settled = np.zeros(count, np.bool_)  # rows of large groups, which were not asked
    step = min(_QUERIES, max(1, _PROPOSED // count))
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))
        settled[rows] = links.sizes(rows) >= max(_LARGE, _LARGE_SHARE * count)
        asked = rows[~settled[rows]]
        pairs = _pairs(asked, index.rows_within(short[asked], within))
        links.add(pairs[(pairs[:, 0] < pairs[:, 1]) | settled[pairs[:, 1]]])
    # What is left are pairs of settled rows of two groups.
    links.join()
    large = [np.flatnonzero(settled & (links.number == n)) for n in np.unique(links.number[settled])]
    for one, other in combinations(large, 2):
        step = max(1, _PROPOSED // len(other))
        for start in range(0, len(one), step):
            if links.number[one[0]] == links.number[other[0]]:
                break
            rows = one[start : start + step]
            near = kernels.rows_within(short[rows], short[other], within)
            links.add(_pairs(rows, [other[found] for found in near]))
            links.join()
    links.join()
    return links.number


class _Links:
    """Rows and what is known of their groups, in memory that grows with the rows alone."""

    def __init__(self, packed: list[Packed], reach: list[int]) -> None:
        self.number = np.arange(len(packed[0]))  # equal for rows of one group; behind by what is not joined yet
        self._sizes = np.ones(len(packed[0]), np.int64)
        self._long = list(zip(packed[1:], reach[1:], strict=True))
        self._waiting: list[Ints] = []
        self._count = 0

    def sizes(self, rows: Ints) -> Ints:
        """How many rows the group of each has."""
        return self._sizes[self.number[rows]]

    def add(self, pairs: Ints) -> None:
        """(p, 2) rows whose short codes are near; those that are together already are passed over."""
        for start in range(0, len(pairs), _COMPARED):
            near = pairs[start : start + _COMPARED]
            near = near[self.number[near[:, 0]] != self.number[near[:, 1]]]
            for packed, radius in self._long:
                apart = np.bitwise_count(packed[near[:, 0]] ^ packed[near[:, 1]]).sum(axis=1, dtype=np.int64)
                near = near[apart <= radius]
            self._waiting.append(near)
            self._count += len(near)
            if self._count >= len(self.number):
                self.join()

    def join(self) -> None:
        """Makes one group of those that pairs connect."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._count:
            rows = len(self.number)
            ends = self.number[np.concatenate(self._waiting)]
            graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(rows, rows))
            self.number = connected_components(graph, directed=False)[1][self.number].astype(np.int64)
            self._sizes = np.bincount(self.number, minlength=rows)
        self._waiting, self._count = [], 0


def _pairs(rows: Ints, near: list[Ints]) -> Ints:
    """(p, 2) of each row and those near it."""
    others = np.concatenate([*near, np.zeros(0, np.int64)])
    return np.stack([np.repeat(rows, [len(found) for found in near]), others], axis=1)


def _index(packed: Packed, radius: int) -> PackedIndex:
    """An index whose row i is row i of `packed`, that finds all within the radius."""
    nbits = packed.shape[1] * 8
    tables = nbits // _TABLE_BITS
    # With flips other bits in a bucket's address, all within tables * (flips + 1) - 1 bits are found.
    flips = radius // tables if tables else _TABLE_BITS
    if flips <= 1:
        index = make("multihash", nbits, tables=tables, table_bits=_TABLE_BITS, flips=flips)
    else:
        index = make("exact", nbits)
    index.add(packed, np.char.zfill(np.arange(len(packed)).astype(str), 20))
    return index


def _groups(number: Ints) -> list[list[int]]:
    """Rows that share a number with others, the largest group first, then by first row."""
    order = np.argsort(number, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    return sorted((g.tolist() for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0]))
