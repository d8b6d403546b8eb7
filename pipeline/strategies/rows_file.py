"""An array in a .npy file, of which only the rows that are asked for are in memory.

Not mapped: all pages of a mapping that were read count as the process' memory until others need it, so that limits that
a scheduler sets would end a run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pipeline.base.failing import place, reading


def begin(file: BinaryIO, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Writes what comes before the values, which follow in order as their bytes."""
    described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


class RowsFile:
    """Read by whole numbers on its first `axes`, as an array is: `file[[3, 5]]`, or of two axes `file[0, [3, 5]]`."""

    def __init__(self, path: Path, axes: int = 1) -> None:
        with reading(path) as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        self.path, self.dtype = path, dtype
        self.shape: tuple[int, ...] = tuple(shape)
        self._axes, self._row = self.shape[:axes], self.shape[axes:]
        self.row_bytes = math.prod(self._row) * dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: ArrayLike | tuple[ArrayLike, ...]) -> NDArray[np.generic]:
        axes = at if isinstance(at, tuple) else (at,)
        places = np.ravel_multi_index(tuple(np.asarray(a, dtype=np.int64) for a in axes), self._axes)
        found = np.empty((places.size, *self._row), dtype=self.dtype)
        with place(self.path), self.path.open("rb", buffering=0) as file:
            for one, row in zip(np.ravel(places).tolist(), found, strict=True):
                file.seek(self._start + one * self.row_bytes)
                if file.readinto(row.data.cast("B")) != self.row_bytes:
                    raise OSError(f"{self.path} was cut short")
        return found.reshape(*np.shape(places), *self._row)
