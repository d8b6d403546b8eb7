"""A navigable small-world graph (Malkov and Yashunin 2016)."""

from __future__ import annotations

from typing import Any, ClassVar

from pipeline.errors import UserError
from pipeline.index.base import Capabilities, Distances, Ints, Packed, PackedIndex, State
from pipeline.index.faiss_backend import copied, one_thread


class Hnsw(PackedIndex):
    """`links` a node, candidate lists of `build_width` and `search_width`.

    Built on one thread, so that the same rows in the same order make the same graph.
    """

    name: ClassVar[str] = "hnsw"
    can: ClassVar[Capabilities] = Capabilities(exact=False, add="in place", remove="rebuild", range="scan")

    def __init__(self, nbits: int, *, links: int, build_width: int, search_width: int) -> None:
        super().__init__(nbits)
        if links < 2 or build_width < 1 or search_width < 1:
            raise UserError(
                f"{links} links, build width {build_width}, search width {search_width}",
                allowed="at least 2 links and widths of at least 1",
            )
        self.links, self.build_width, self.search_width = links, build_width, search_width

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
