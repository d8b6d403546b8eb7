"""The exact index: every row compared, by the fastest kernel that this machine has."""

from __future__ import annotations

from typing import Any, ClassVar

from pipeline.search import kernels
from pipeline.search.base import Capabilities, Distances, Ints, Packed, PackedIndex, State


class Exact(PackedIndex):
    """True nearest neighbours, ties at the cut included. Holds the packed rows and nothing else."""

    name: ClassVar[str] = "exact"
    can: ClassVar[Capabilities] = Capabilities(exact=True, add="in place", remove="in place", range="in place")

    def settings(self) -> dict[str, Any]:
        return {}

    def _build(self, packed: Packed) -> None:
        return None

    def _nearest(self, state: State, queries: Packed, k: int) -> tuple[Distances, Ints]:
        return kernels.nearest(queries, state.packed, k)
