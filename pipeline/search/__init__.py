"""Bits to neighbours: one registry of indexes, two-stage search, and indexes on disk."""

from __future__ import annotations

from typing import Any

from pipeline.base.errors import UserError
from pipeline.search.base import Capabilities, Change, Index, PackedIndex
from pipeline.search.exact import Exact
from pipeline.search.hnsw import Hnsw
from pipeline.search.ivf import Ivf
from pipeline.search.multihash import MultiHash

INDEXES: dict[str, type[PackedIndex]] = {i.name: i for i in (Exact, MultiHash, Ivf, Hnsw)}

__all__ = ["INDEXES", "Capabilities", "Change", "Index", "PackedIndex", "make"]


def make(name: str, nbits: int, **settings: Any) -> PackedIndex:
    """An empty index. Raises UserError for an unknown name or setting, or bits that don't fill whole bytes."""
    if name not in INDEXES:
        raise UserError(f"unknown index {name!r}", allowed=INDEXES)
    try:
        return INDEXES[name](nbits, **settings)
    except TypeError:
        import inspect

        wanted = list(inspect.signature(INDEXES[name]).parameters)[1:]
        raise UserError(f"index {name} with settings {sorted(settings)}", allowed=wanted or "none") from None
