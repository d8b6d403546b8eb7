"""Inverted lists: rows by the nearest of some centres; a query scans the lists of its nearest centres."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pipeline.base.errors import UserError
from pipeline.search.base import Capabilities, Distances, Ints, Packed, PackedIndex, State, require_settings
from pipeline.search.faiss_backend import centres, copied, to_bytes

# Below this many rows a list, k-means has too little to go by (faiss's own rule).
_ROWS_PER_LIST = 39
_LIMITS = {"lists": (1, 65_536), "probes": (1, 65_536)}


class Ivf(PackedIndex):
    """`lists` centres by k-means of the rows (fewer while the collection is small), `probes` of them scanned."""

    name: ClassVar[str] = "ivf"
    can: ClassVar[Capabilities] = Capabilities(exact=False, add="in place", remove="in place", range="scan")

    def __init__(self, nbits: int, *, lists: int, probes: int) -> None:
        super().__init__(nbits)
        self.lists, self.probes = lists, probes
        require_settings(self.name, _LIMITS, self.settings())
        if probes > lists:
            raise UserError(f"index ivf with {probes} probes of {lists} lists", allowed=f"1 to {lists} probes")

    def settings(self) -> dict[str, Any]:
        return {"lists": self.lists, "probes": self.probes}

    def _lists_for(self, rows: int) -> int:
        return max(1, min(self.lists, rows // _ROWS_PER_LIST))

    def _build(self, packed: Packed) -> Any:
        import faiss

        lists = self._lists_for(len(packed))
        # faiss's Python constructor keeps the quantizer alive with the index.
        backend = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(self.nbits), self.nbits, lists)
        backend.nprobe = min(self.probes, lists)
        backend.cp.min_points_per_centroid = 1  # or faiss warns of fewer on stderr; `_lists_for` sees to them
        backend.train(packed)
        backend.add_with_ids(packed, np.arange(len(packed)))
        return backend

    def kept(self) -> bytes:
        """The centres: they stay where they are while rows come and go."""
        return b"" if self.state.backend is None else to_bytes(self.state.backend)

    def _rebuilt(self, packed: Packed, kept: bytes) -> Any:
        import faiss

        found = centres(kept, self.nbits)
        quantizer = faiss.IndexBinaryFlat(self.nbits)
        quantizer.add(found)
        backend = faiss.IndexBinaryIVF(quantizer, self.nbits, len(found))
        backend.is_trained = True
        backend.nprobe = min(self.probes, len(found))
        backend.add_with_ids(packed, np.arange(len(packed)))
        return backend

    def _extend(self, backend: Any, packed: Packed, labels: Ints) -> Any:
        if backend.nlist < self._lists_for(int(backend.ntotal) + len(packed)):
            return None
        backend = copied(backend)
        backend.add_with_ids(packed, labels)
        return backend

    def _drop(self, backend: Any, labels: Ints) -> Any:
        backend = copied(backend)
        backend.remove_ids(labels)
        return backend

    def _nearest(self, state: State, queries: Packed, k: int) -> tuple[Distances, Ints]:
        distances, labels = state.backend.search(queries, k)
        return distances, labels
