"""Retrieval metrics with exact treatment of ties, from the counts of each query's tie groups alone.

A ranking by Hamming distance is mostly ties. Breaking them by database order makes the order part of the score (ids
follow classes), so every figure here is the expectation over all orders within a tie, each equally likely: McSherry
and Najork, "Computing information retrieval performance measures efficiently in the presence of tied scores", 2008.

All that a query needs is, for each distance, how many items lie there and how many of them are relevant: a few
hundred numbers, whatever the size of the collection. Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Packed = NDArray[np.uint8]
Distances = NDArray[np.uint16]

# Up to this many bits a popcount is faster than a matrix product of the unpacked bits (measured: they meet near 256).
_POPCOUNT_NBITS = 256
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class TieGroups:
    """Per query, tie groups in the order of the ranking; a group may be empty.

    `counts` and `relevant` are (q, g) int64: items of the group, and relevant ones. From Hamming distances, group d
    holds the items at distance d. `total_relevant` (q,) counts the whole collection, which `counts` may not reach.
    """

    counts: Ints
    relevant: Ints
    total_relevant: Ints

    def __len__(self) -> int:
        return len(self.counts)


def hamming_groups(
    queries: Packed,
    database: Packed,
    query_labels: Ints,
    database_labels: Ints,
    *,
    self_rows: Ints | None = None,
) -> TieGroups:
    """Tie groups by Hamming distance, relevant = same label; (q, nbits/8) and (n, nbits/8) packed bits.

    `self_rows` (q,) is each query's own row in the database, or -1: that row is left out of its ranking. Memory is
    bounded by blocks of about 64 MB. Raises UserError for widths that differ, no rows, or unlabelled (-1) ones.
    """
    _check_pair(queries, database)
    if len(query_labels) != len(queries) or len(database_labels) != len(database):
        raise UserError(
            f"{len(query_labels)} and {len(database_labels)} labels for {len(queries)} queries and "
            f"{len(database)} rows",
            allowed="one label a row",
        )
    if (np.min(query_labels) < 0) or (np.min(database_labels) < 0):
        raise UserError("unlabelled rows (-1) among queries or database", allowed="rows with labels")
    # Sorted by label, the relevant rows of a query are one slice.
    order = np.argsort(database_labels, kind="stable")
    starts = np.searchsorted(database_labels[order], query_labels, side="left")
    stops = np.searchsorted(database_labels[order], query_labels, side="right")

    def hits(i: int, first: int, row: Distances) -> Distances:
        return row[max(starts[i] - first, 0) : max(stops[i] - first, 0)]

    counts, relevant = _histograms(queries, np.ascontiguousarray(database[order]), hits)
    if self_rows is not None:
        own = np.flatnonzero(self_rows >= 0)
        at = _own_distances(queries, database, self_rows, own)
        counts[own, at] -= 1
        relevant[own, at] -= query_labels[own] == database_labels[self_rows[own]]
    return TieGroups(counts, relevant, relevant.sum(axis=1))


def neighbour_groups(
    queries: Packed, database: Packed, neighbours: Ints, *, self_rows: Ints | None = None
) -> TieGroups:
    """Tie groups by Hamming distance, relevant = one of the query's true neighbours: (q, m) rows of the database.

    With exact cosine neighbours, `recall_at` is then the usual recall of a code against its floats.
    """
    _check_pair(queries, database)

    def hits(i: int, first: int, row: Distances) -> Distances:
        mine = neighbours[i] - first
        picked: Distances = row[mine[(mine >= 0) & (mine < len(row))]]
        return picked

    counts, relevant = _histograms(queries, database, hits)
    if self_rows is not None:
        if (neighbours == self_rows[:, None]).any():
            raise UserError("a query is among its own true neighbours", allowed="neighbours without the query itself")
        own = np.flatnonzero(self_rows >= 0)
        counts[own, _own_distances(queries, database, self_rows, own)] -= 1
    return TieGroups(counts, relevant, relevant.sum(axis=1))


def distance_groups(distances: NDArray[np.floating], relevant: NDArray[np.bool_], *, k: int | None = None) -> TieGroups:
    """Tie groups of any distances: (q, n), with `relevant` (q, n). Rows at infinity are left out (a query itself).

    Equal distances are ties. With `k`, only groups that reach into the first k are kept: enough for any metric at
    up to k, and far less work than a full sort.
    """
    pairs: list[tuple[Ints, Ints]] = []
    totals = np.zeros(len(distances), np.int64)
    for i, (row, hit) in enumerate(zip(distances, relevant, strict=True)):
        kept = np.isfinite(row)
        totals[i] = np.count_nonzero(hit & kept)
        if k is not None and k < len(row):
            kept &= row <= np.partition(row, k - 1)[k - 1]
        _, group = np.unique(row[kept], return_inverse=True)
        pairs.append((np.bincount(group), np.bincount(group, weights=hit[kept]).astype(np.int64)))
    width = max((len(c) for c, _ in pairs), default=0)
    counts, hits = np.zeros((2, len(pairs), width), np.int64)
    for i, (c, r) in enumerate(pairs):
        counts[i, : len(c)], hits[i, : len(c)] = c, r
    return TieGroups(counts, hits, totals)


def average_precision(
    groups: TieGroups, k: int | None = None, *, denominator: Literal["hits", "possible"] = "hits"
) -> Floats:
    """(q,) expected AP@k = sum over i <= k of precision(i) * relevant(i), divided by a denominator; k None = all.

    `hits`: the relevant items among the first k (0 if none), the convention of the hashing papers. `possible`:
    min(R, k) with R relevant items in the collection. Over the whole collection both are R.

    Let N items, R of them relevant, come before a group of c items with r relevant, in random order. Position j of
    the group is relevant with probability r/c, and then (j-1)(r-1)/(c-1) of the group's relevant items are expected
    above it. Summed over the first m = c positions, with A = sum 1/(N+j) = H(N+m) - H(N):
        E = r/c * ((R+1) A + (r-1)/(c-1) * (m - (N+1) A)).
    Only the group that straddles k makes the hits random: h ~ hypergeometric(c, r, m), m = k - N. Given h, the first
    m positions are in random order again (c = m, r = h in the formula above), and what comes before is independent of
    h; so E[AP] = sum over h of P(h) * (E[before] + E[group | h]) / (R + h), exactly.
    """
    k = _check_k(groups, k)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, k + 1))])
    n_before, r_before = _before(groups.counts), _before(groups.relevant)
    whole = n_before + groups.counts <= k
    sums = _group_sum(np.where(whole, groups.counts, 0), groups.relevant, n_before, r_before, harmonic).sum(axis=1)
    n_in = np.where(whole, groups.counts, 0).sum(axis=1)
    r_in = np.where(whole, groups.relevant, 0).sum(axis=1)
    rows = np.flatnonzero((n_in < k) & ~whole.all(axis=1))  # queries with a group that straddles k
    cut = np.argmin(whole, axis=1)[rows]
    size, hits, taken = groups.counts[rows, cut], groups.relevant[rows, cut], k - n_in[rows]

    # First as if nothing straddled k; then those rows again. A sum without hits is 0, so dividing by 1 keeps it 0.
    possible = np.maximum(np.minimum(groups.total_relevant, k), 1)
    result: Floats = sums / (possible if denominator == "possible" else np.maximum(r_in, 1))
    for part in np.array_split(np.arange(len(rows)), max(1, len(rows) * k // 2_000_000)):
        at = rows[part]
        h, p = _hypergeometric(size[part], hits[part], taken[part], k)
        inside = _group_sum(taken[part][:, None], h, n_in[at][:, None], r_in[at][:, None], harmonic)
        below = possible[at][:, None] if denominator == "possible" else np.maximum(r_in[at][:, None] + h, 1)
        result[at] = (p * (sums[at][:, None] + inside) / below).sum(axis=1)
    return result


def precision_at(groups: TieGroups, k: int) -> Floats:
    """(q,) expected share of relevant items among the first k."""
    return _expected_hits(groups, _check_k(groups, k)) / k


def recall_at(groups: TieGroups, k: int) -> Floats:
    """(q,) expected share of all relevant items that are among the first k; 0 for a query without any."""
    return _expected_hits(groups, _check_k(groups, k)) / np.maximum(groups.total_relevant, 1)


def precision_within(groups: TieGroups, radius: int) -> Floats:
    """(q,) share of relevant items at distances up to `radius`, from `hamming_groups`; 0 where there are none.

    No ties to break: a ball holds whole groups. Finding nothing counts as failure, as in the hashing papers.
    """
    found = groups.counts[:, : radius + 1].sum(axis=1)
    return np.asarray(groups.relevant[:, : radius + 1].sum(axis=1) / np.maximum(found, 1), np.float64)


def precision_recall_curve(groups: TieGroups) -> tuple[Floats, Floats]:
    """(precision, recall) of the balls of radius 0, 1, ..., all queries' answers pooled; from `hamming_groups`.

    Radii within which no query finds anything have no precision and are left out.
    """
    found, hits = groups.counts.sum(axis=0).cumsum(), groups.relevant.sum(axis=0).cumsum()
    kept = found > 0
    return hits[kept] / found[kept], hits[kept] / max(int(groups.total_relevant.sum()), 1)


def _histograms(
    queries: Packed, database: Packed, hits: Callable[[int, int, Distances], Distances]
) -> tuple[Ints, Ints]:
    """(counts, relevant), both (q, nbits + 1): rows of the database, and relevant ones, at each distance.

    `hits(i, first, row)` picks from query i's distances to the rows from `first` on those of relevant rows. Blocks of
    the database outside, of queries inside, on two threads (numpy lets go of the interpreter): a block's unpacked
    bits and distances stay within about 64 MB each.
    """
    groups = database.shape[1] * 8 + 1
    counts, relevant = np.zeros((2, len(queries), groups), np.int64)
    rows = max(1, _BLOCK_BYTES // (groups * 4)) if groups > _POPCOUNT_NBITS + 1 else max(1, _BLOCK_BYTES // 16)
    for first in range(0, len(database), rows):
        distances_to = _distances_to(database[first : first + rows])
        step = max(1, min(256, _BLOCK_BYTES // (min(rows, len(database)) * 10), _BLOCK_BYTES // (groups * 4)))

        def work(start: int) -> None:
            # The defaults of a loop's closure: each pool below ends before the next block is bound.
            for i, row in enumerate(distances_to(queries[start : start + step]), start):  # noqa: B023
                counts[i] += np.bincount(row, minlength=groups)
                relevant[i] += np.bincount(hits(i, first, row), minlength=groups)  # noqa: B023

        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(work, range(0, len(queries), step)):
                pass
    return counts, relevant


def _distances_to(database: Packed) -> Callable[[Packed], Distances]:
    """A function of (q, w) packed bits: (q, n) uint16 distances, by popcount, or for long codes by a product.

    |x| + |q| - 2 x.q, and a float32 product of 0/1 values counts exactly to 2**24.
    """
    if database.shape[1] * 8 > _POPCOUNT_NBITS:
        x = np.unpackbits(database, axis=1).astype(np.float32)
        x_counts = x.sum(axis=1)

        def by_product(queries: Packed) -> Distances:
            q = np.unpackbits(queries, axis=1).astype(np.float32)
            overlap = q @ x.T
            overlap *= -2.0
            overlap += q.sum(axis=1)[:, None]
            overlap += x_counts
            return overlap.astype(np.uint16)

        return by_product
    words = np.ascontiguousarray(_words(database).T)

    def by_popcount(queries: Packed) -> Distances:
        q_words = _words(queries)
        result: Distances = np.bitwise_count(q_words[:, :1] ^ words[0]).astype(np.uint16)
        for i in range(1, len(words)):
            result += np.bitwise_count(q_words[:, i : i + 1] ^ words[i])
        return result

    return by_popcount


def _words(packed: Packed) -> NDArray[np.uint64]:
    """(n, w) bytes -> (n, ceil(w/8)) words; padded with zero bytes, which add nothing to a distance."""
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


def _own_distances(queries: Packed, database: Packed, self_rows: Ints, own: Ints) -> Ints:
    """(len(own),) each query's distance to its own row."""
    differing = queries[own] ^ database[self_rows[own]]
    at: Ints = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
    return at


def _check_pair(queries: Packed, database: Packed) -> None:
    if not len(queries) or not len(database):
        raise UserError(f"{len(queries)} queries and {len(database)} rows in the database", allowed="at least one each")
    if queries.shape[1] != database.shape[1]:
        raise UserError(
            f"queries of {queries.shape[1] * 8} bits, a database of {database.shape[1] * 8}",
            allowed="codes of one hasher and length",
        )


def _check_k(groups: TieGroups, k: int | None) -> int:
    """k, or all for None. Raises UserError if some query has fewer than k items in its ranking."""
    fewest = int(groups.counts.sum(axis=1).min())
    if k is None:
        return max(int(groups.counts.sum(axis=1).max()), 1)
    if not 1 <= k <= fewest:
        raise UserError(f"k = {k} of a ranking of {fewest}", allowed=f"1 to {fewest}")
    return k


def _before(values: Ints) -> Ints:
    """(q, g) how many lie in the groups before each."""
    return np.cumsum(values, axis=1) - values


def _group_sum(m: Ints, r: Ints, n_before: Ints, r_before: Ints, harmonic: Floats) -> Floats:
    """E of `average_precision` for the m positions after n_before, of which r are relevant, in random order; m 0: 0."""
    n_before = np.where(m > 0, n_before, 0)
    a = harmonic[n_before + m] - harmonic[n_before]
    above = np.maximum(r - 1, 0) / np.maximum(m - 1, 1) * (m - (n_before + 1) * a)
    return np.asarray(r / np.maximum(m, 1) * ((r_before + 1) * a + above) * (m > 0), np.float64)


def _hypergeometric(size: Ints, hits: Ints, taken: Ints, k: int) -> tuple[Ints, Floats]:
    """(h, P(h)), each (q, w): relevant ones among `taken` drawn from `size` with `hits`; impossible h have P 0, h 0."""
    h = np.arange(min(k, int(np.max(hits, initial=0))) + 1) + np.zeros((len(size), 1), np.int64)
    size, hits, taken = size[:, None], hits[:, None], taken[:, None]
    possible = (h <= np.minimum(hits, taken)) & (h >= taken - (size - hits))
    h = np.where(possible, h, np.clip(taken - (size - hits), 0, None))
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(np.max(size, initial=1)) + 1)))])
    log_p = -(
        log_factorial[h] + log_factorial[hits - h] + log_factorial[taken - h] + log_factorial[size - hits - taken + h]
    )  # the factors without h go in the normalisation
    p = np.where(possible, np.exp(log_p - log_p.max(axis=1, keepdims=True)), 0.0)
    return h, p / p.sum(axis=1, keepdims=True)


def _expected_hits(groups: TieGroups, k: int) -> Floats:
    n_before = _before(groups.counts)
    taken = np.clip(k - n_before, 0, groups.counts)
    return np.asarray((groups.relevant * taken / np.maximum(groups.counts, 1)).sum(axis=1), np.float64)
