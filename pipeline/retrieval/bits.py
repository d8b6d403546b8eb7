"""How a code spreads its bits: what Hamming distance suffers from before any ranking is made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.search.base import PackedIndex

Packed = NDArray[np.uint8]
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BALANCED = (0.3, 0.7)


def popcounts(packed: Packed) -> dict[str, object]:
    """Bits set an image (n, nbits/8): mean, standard deviation, and the counts at QUANTILES."""
    counts = np.bitwise_count(packed).sum(axis=1, dtype=np.int64)
    return {
        "mean": float(counts.mean()),
        "std": float(counts.std()),
        "quantiles": [float(v) for v in np.quantile(counts, QUANTILES)],
    }


def balanced(packed: Packed) -> float:
    """The share of bits that are set in .3 to .7 of the images."""
    totals = np.zeros(packed.shape[1] * 8, dtype=np.int64)
    for start in range(0, len(packed), 4096):
        totals += np.unpackbits(packed[start : start + 4096], axis=1).sum(axis=0, dtype=np.int64)
    means = totals / len(packed)
    return float(((means >= _BALANCED[0]) & (means <= _BALANCED[1])).mean())


def sparse_share(index: PackedIndex, queries: Packed, k: int) -> float:
    """The share of all k nearest places that go to the quarter of the collection with the fewest bits set.

    A quarter if the number of bits set had no say; Hamming distance favours the sparse where it differs.
    """
    _, rows = index.search_rows(queries, k)
    counts = np.bitwise_count(index.packed).sum(axis=1, dtype=np.int64)
    sparse = np.zeros(len(counts), dtype=np.bool_)
    sparse[np.argsort(counts, kind="stable")[: len(counts) // 4]] = True
    return float(sparse[rows].mean())
