"""The few things that faiss's binary indexes share: copies, bytes, and one thread where order matters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def copied(backend: Any) -> Any:
    """An equal index of its own: adding to it leaves searches of the first undisturbed."""
    import faiss

    return faiss.deserialize_index_binary(faiss.serialize_index_binary(backend))


def to_bytes(backend: Any) -> bytes:
    """faiss's own format."""
    import faiss

    return bytes(faiss.serialize_index_binary(backend))


def from_bytes(data: bytes) -> Any:
    """The inverse of `to_bytes`. Only for bytes whose checksum is known: faiss trusts what it reads."""
    import faiss

    blob: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    return faiss.deserialize_index_binary(blob)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """faiss on one thread within, for this caller alone: an HNSW graph depends on the order in which rows arrive."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
