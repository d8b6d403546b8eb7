"""The few things that faiss's binary indexes share: copies, bytes, and one thread where order matters."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError


def copied(backend: Any) -> Any:
    """An equal index of its own: adding to it leaves searches of the first undisturbed."""
    import faiss

    return faiss.deserialize_index_binary(faiss.serialize_index_binary(backend))


def to_bytes(backend: Any) -> bytes:
    """faiss's own format. Never read by faiss again: it trusts what it reads, and such bytes may name other files."""
    import faiss

    return bytes(faiss.serialize_index_binary(backend))


# What faiss writes before an index: its kind, bits, bytes a row, rows, whether it is trained, the metric.
_HEAD = struct.Struct("<4siiq?i")
_LISTS = struct.Struct("<QQ")  # of inverted lists: how many, and how many are probed
_SIZE = struct.Struct("<Q")


def centres(data: bytes, nbits: int) -> NDArray[np.uint8]:
    """(lists, nbits/8) centres of the inverted lists in what `to_bytes` gave of them.

    Nothing else of the bytes is looked at. Raises UserError if they are of another kind, or cut short.
    """
    width = nbits // 8
    try:
        kind, bits, *_ = _HEAD.unpack_from(data)
        lists, _ = _LISTS.unpack_from(data, _HEAD.size)
        inner, inner_bits, _, rows, *_ = _HEAD.unpack_from(data, _HEAD.size + _LISTS.size)
        (size,) = _SIZE.unpack_from(data, 2 * _HEAD.size + _LISTS.size)
    except struct.error:
        kind, bits, lists, inner, inner_bits, rows, size = b"", 0, 0, b"", 0, 0, 0
    start = 2 * _HEAD.size + _LISTS.size + _SIZE.size
    fits = (kind, bits, inner, inner_bits) == (b"IBwF", nbits, b"IBxF", nbits)
    if not fits or not lists == rows > 0 or size != lists * width or len(data) < start + size:
        raise UserError(f"the index's lists are not inverted lists of {nbits} bits", see="`cnncodes index`")
    found: NDArray[np.uint8] = np.frombuffer(data, np.uint8, count=size, offset=start)
    return found.reshape(lists, width)


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
