"""A navigable small-world graph (Malkov and Yashunin 2016)."""

from __future__ import annotations

from typing import Any, ClassVar

from pipeline.search.base import Capabilities, Distances, Ints, Packed, PackedIndex, State, require_settings
from pipeline.search.faiss_backend import copied, one_thread

_LIMITS = {"links": (2, 128), "build_width": (1, 4096), "search_width": (1, 4096)}


class Hnsw(PackedIndex):
    """`links` a node, candidate lists of `build_width` and `search_width`.

    Built on one thread, so that the same rows in the same order make the same graph.
    """

    name: ClassVar[str] = "hnsw"
    can: ClassVar[Capabilities] = Capabilities(exact=False, add="in place", remove="rebuild", range="scan")

    def __init__(self, nbits: int, *, links: int, build_width: int, search_width: int) -> None:
        super().__init__(nbits)
        self.links, self.build_width, self.search_width = links, build_width, search_width
        require_settings(self.name, _LIMITS, self.settings())

    def settings(self) -> dict[str, Any]:
        return {"links": self.links, "build_width": self.build_width, "search_width": self.search_width}

    def _build(self, packed: Packed) -> Any:
        import faiss

        backend = faiss.IndexBinaryHNSW(self.nbits, self.links)
        backend.hnsw.efConstruction = self.build_width
        backend.hnsw.efSearch = self.search_width
        with one_thread():
            backend.add(packed)
        return backend

    def _extend(self, backend: Any, packed: Packed, labels: Ints) -> Any:
        backend = copied(backend)
        with one_thread():
            backend.add(packed)  # labels go on from where they stood
        return backend

    def _nearest(self, state: State, queries: Packed, k: int) -> tuple[Distances, Ints]:
        distances, labels = state.backend.search(queries, k)
        return distances, labels
