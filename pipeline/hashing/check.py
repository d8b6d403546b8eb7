"""What every hasher asks of its input, said in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError

Codes: TypeAlias = NDArray[np.floating[Any]]
Bits: TypeAlias = NDArray[np.bool_]
Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]


def codes(values: Codes, *, dim: int | None = None) -> Codes:
    """`values` (n, d), C-ordered, float16 or float32 (float64 is rounded to float32).

    Raises UserError if it is not such a matrix, has another d than `dim`, or holds NaN or infinity.
    """
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f" or values.shape[1] == 0:
        got = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise UserError(f"codes are {got}", allowed="a float matrix (images, dimensions)")
    if dim is not None and values.shape[1] != dim:
        raise UserError(
            f"codes have {values.shape[1]} dimensions, but the hasher was fitted on {dim}",
            allowed="codes of the layer, pooling and size that it was fitted on",
        )
    if values.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, which is refused next
            values = values.astype(np.float32)
    values = np.ascontiguousarray(values)
    for start in range(0, len(values), 4096):
        finite = np.isfinite(values[start : start + 4096]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise UserError(f"row {row} of the codes holds NaN or infinity", allowed="finite values")
    return values


def training(values: Codes, *, rows: int, who: str) -> Codes:
    """As `codes`, of at least `rows` rows: fewer can't determine what `who` learns (UserError)."""
    values = codes(values)
    if len(values) < rows:
        raise UserError(f"{who} can't be fitted on {len(values)} codes", allowed=f"at least {rows} of them")
    return values


def code_length(nbits: int, *, who: str) -> int:
    """`nbits`, if bits of that number fill whole bytes (UserError if not)."""
    if nbits < 8 or nbits % 8:
        raise UserError(f"{who} was asked for {nbits} bits", allowed="a positive multiple of 8")
    return nbits


def tells_apart(bits: Bits, values: Callable[[], Codes], *, who: str) -> None:
    """Raises UserError if the bits (n, nbits) of all training codes are equal though the codes are not: all distances
    would be 0. Codes that are all equal have equal bits by right. `values`: reads the codes (n, d), where need be.
    """
    if len(bits) and _all_equal(bits) and not _all_equal(values()):
        number = f"{np.count_nonzero(bits[0]):,} of {bits.shape[1]:,}" if bits[0].any() else "none"
        raise UserError(
            f"{who} gives all {len(bits):,} training images the same bits ({number} set), which find nothing",
            allowed="a hash or a layer whose bits tell images apart",
        )


def _all_equal(values: NDArray[Any]) -> bool:
    return bool((values == values[0]).all())


def unfitted(who: str) -> RuntimeError:
    """The error of a hasher that is used before `fit`."""
    return RuntimeError(f"{who} is not fitted: call fit or from_arrays first")
