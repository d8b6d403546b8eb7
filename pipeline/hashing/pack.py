"""Bits in bytes: the one layout that hashers, files and indexes share."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError

BIT_ORDER: Final = "big"  # the first bit is the high bit of byte 0


def pack(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(n, nbits) bool -> (n, nbits/8) uint8, first bit = high bit of byte 0.

    Raises UserError if `bits` is not a bool matrix or nbits is not a positive multiple of 8.
    """
    if bits.ndim != 2 or bits.dtype != np.bool_:
        raise UserError(f"bits are {bits.dtype} of shape {bits.shape}", allowed="a bool matrix (images, bits)")
    if bits.shape[1] == 0 or bits.shape[1] % 8:
        raise UserError(f"{bits.shape[1]} bits do not fill whole bytes", allowed="a positive multiple of 8")
    return np.packbits(bits, axis=1, bitorder=BIT_ORDER)


def unpack(packed: NDArray[Any]) -> NDArray[np.bool_]:
    """(n, nbits/8) uint8 -> (n, nbits) bool: the inverse of `pack`. Raises UserError on another dtype or shape."""
    if packed.ndim != 2 or packed.dtype != np.uint8:
        raise UserError(f"packed bits are {packed.dtype} of shape {packed.shape}", allowed="uint8 (images, nbits/8)")
    return np.unpackbits(packed, axis=1, bitorder=BIT_ORDER).view(np.bool_)
