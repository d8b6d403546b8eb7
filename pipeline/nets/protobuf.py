"""Protocol buffers as bytes: the fields of a message, without its schema."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}


class BrokenError(Exception):
    """The bytes are no message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) in order: an int for a varint, else the value's bytes. Raises BrokenError."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            number, at = varint(message, at)
            yield tag >> 3, number
            continue
        if kind == BYTES:
            size, at = varint(message, at)
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            raise BrokenError(f"wire type {kind} at byte {at}")
        if at + size > len(message):
            raise BrokenError(f"{size} bytes are announced where {len(message) - at} are left")
        yield tag >> 3, message[at : at + size]
        at += size


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, low ones first, and where the next begins. Raises BrokenError."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise BrokenError("a number ends in the middle")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise BrokenError("a number of more than ten bytes")
