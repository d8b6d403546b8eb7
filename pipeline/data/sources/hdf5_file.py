"""What one HDF5 file holds: images, and what it says of them, in one of the two layouts that `hdf5` describes.

Everything is read a block at a time: a file may be larger than the memory.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base import hdf5_files
from pipeline.base.errors import UserError
from pipeline.data.sources.base import blocks, known_split

if TYPE_CHECKING:
    import h5py

MOST_CLASSES = 1_000_000
_ROWS, _ROWS_BYTES = 64, 4 << 20  # images read at a time, where they don't lie in larger chunks
_CHUNK_BYTES = 256 << 20  # in whatever chunks they lie
_TEXTS = 1024  # texts of any length read at a time

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]
Texts = list[str]


class Columns(NamedTuple):
    """What a file says of its images, in order; "" for what it does not say.

    `shape`: of an image as it is stored. `labels`: texts, or class numbers (n,); of these, `classes` are the names and
    `nclass` is how many there are, [] and 0 where the file does not say.
    """

    shape: tuple[int, ...]
    labels: Texts | Ints
    groups: Texts
    splits: Texts
    classes: Texts
    nclass: int

    def __len__(self) -> int:
        return len(self.labels)


def columns(where: str) -> Columns:
    """Raises UserError if the file is missing, can't be read or is of neither layout."""
    if not Path(where).is_file():
        raise UserError(f"dataset: {where} is not a file", allowed="an HDF5 file", see="docs/params.md")
    with _opened(where) as file:
        return _plain(file, where) if _layout(file, where) == "images" else _neon(file, where)


def pictures(where: str) -> Iterator[Pixels]:
    """(H, W) or (H, W, 3) of each image, in order. Raises UserError on values that are no pixels."""
    with _opened(where) as file:
        data = file[_layout(file, where)]
        shape = _lshape(data) if data.ndim == 2 else tuple(data.shape[1:])
        if len(shape) not in (2, 3) or (len(shape) == 3 and not {1, 3} & {shape[0], shape[-1]}):
            raise UserError(f"{where}: images of shape {shape}", allowed="(H, W), (H, W, 1 or 3) or (1 or 3, H, W)")
        # neon's lshape is always channels first, even where both ends are 3 wide
        first = len(shape) == 3 and (data.ndim == 2 or shape[2] not in (1, 3))
        for block in blocks(len(data), _rows_at_once(data)):
            for row in _as_pixels(data[block], where, data.name).reshape(-1, *shape):
                picture = row.transpose(1, 2, 0) if first else row  # (H, W[, C])
                # A copy, so that a picture that waits to be saved does not keep its whole block.
                yield np.array(picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture, order="C")


# How h5py tells of a file of some other kind.
_SIGNATURE = "file signature not found"
_NOT_HDF5 = "it is of another kind"


@contextlib.contextmanager
def _opened(where: str) -> Iterator[h5py.File]:
    try:
        with hdf5_files.opened(where, theirs=True) as file:
            yield file
    except PermissionError as e:
        raise UserError(f"{where} can't be read: permission denied") from e
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as e:
        raise UserError(
            f"{where} can't be read as HDF5: {_NOT_HDF5 if _SIGNATURE in str(e) else e}",
            allowed="a whole HDF5 file of images",
            see="docs/params.md",
        ) from e


def _layout(file: h5py.File, where: str) -> str:
    """The name of the dataset with the images, which tells the layout."""
    found = next((name for name in ("images", "input") if name in file), None)
    if found is None:
        raise UserError(f"{where} holds {sorted(file)}", allowed="a dataset images or input")
    return found


def _plain(file: h5py.File, where: str) -> Columns:
    data = _dataset(file, "images", where)
    classes: Texts = []
    found: dict[str, Texts | Ints] = {}
    for name in ("labels", "group", "split"):
        values = _dataset(file, name, where) if name in file else None
        if values is not None and values.shape != data.shape[:1]:
            raise UserError(f"{where}: {name} is {values.shape}, images {data.shape}", allowed="one value an image")
        found[name] = [""] * len(data) if values is None else _texts_or_numbers(values, where)
        if name == "labels" and values is not None:
            classes = [v.decode() if isinstance(v, bytes) else str(v) for v in values.attrs.get("classes", ())]
    groups, given = (_as_texts(found[name]) for name in ("group", "split"))
    splits = [known_split(s, where=f"{where}: split") if s else "" for s in given]
    return Columns(tuple(data.shape[1:]), found["labels"], groups, splits, classes, 0)


def _neon(file: h5py.File, where: str) -> Columns:
    data = _dataset(file, "input", where)
    shape = _lshape(data)
    if data.ndim != 2 or len(shape) != 3 or min(shape) < 1 or math.prod(shape) != data.shape[1]:
        raise UserError(f"{where}: input is {data.shape} with lshape {shape}", allowed="(n, C*H*W), lshape (C, H, W)")
    none = [""] * len(data)
    if "output" not in file:
        return Columns(shape, none, none, none, [], 0)
    output = _dataset(file, "output", where)
    if len(output) != len(data) or output.ndim > 2 or output.dtype.kind not in "iuf":
        raise UserError(
            f"{where}: output is {output.shape} {output.dtype}, input {data.shape}",
            allowed="numbers (n,), (n, 1), (n, nclass)",
        )
    width = output.shape[1] if output.ndim == 2 else 1
    nclass = width if width > 1 else int(output.attrs.get("nclass", 0))
    require_classes(nclass, where)
    rows = max(1, _ROWS_BYTES // (width * output.dtype.itemsize))
    numbers = np.concatenate([_class_numbers(output[block], where) for block in blocks(len(output), rows)])
    if np.any(numbers < 0) or (nclass and np.any(numbers >= nclass)):
        raise UserError(
            f"{where}: output has values that are no class",
            allowed=f"whole numbers from 0 to {nclass - 1}" if nclass else "whole numbers from 0",
        )
    return Columns(shape, numbers, none, none, [], nclass)


def _lshape(data: h5py.Dataset) -> tuple[int, ...]:
    return tuple(int(v) for v in np.ravel(data.attrs.get("lshape", ())))


def _class_numbers(values: NDArray[np.number], where: str) -> Ints:
    """(n,) of numbers (n,) or (n, 1), or of one-hot rows (n, nclass)."""
    if values.ndim == 2 and values.shape[1] > 1:
        if not np.all((values == 0) | (values == 1)) or not np.all(values.sum(axis=1) == 1):
            raise UserError(f"{where}: output has rows that are not one-hot", allowed="a single 1 a row, else 0")
        return np.asarray(values.argmax(axis=1), dtype=np.int64)
    flat = np.ravel(values)
    numbers = np.where(np.isfinite(flat) & (np.abs(flat) < 2.0**62), flat, -1).astype(np.int64)
    return np.where(numbers == flat, numbers, -1)


def _dataset(file: h5py.File, name: str, where: str) -> h5py.Dataset:
    import h5py

    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.ndim == 0 or len(found) == 0:
        raise UserError(f"{where}: {name} is not a dataset with rows")
    return found


def _texts_or_numbers(values: h5py.Dataset, where: str) -> Texts | Ints:
    if values.dtype.kind == "O":
        return _endless(values, where)
    array = values[()]
    if array.dtype.kind == "S":
        return [v.decode() for v in array]
    if array.dtype.kind not in "iu" or np.any(array < 0):
        raise UserError(f"{where}: {values.name} holds {array.dtype}", allowed="text, or whole numbers from 0")
    require_classes(int(array.max()) + 1, where)
    return np.asarray(array, dtype=np.int64)


def _as_texts(values: Texts | Ints) -> Texts:
    return values if isinstance(values, list) else list(map(str, values.tolist()))


def require_classes(count: int, where: str) -> None:
    """Raises UserError on more classes than can be told apart: each gets a name."""
    if count > MOST_CLASSES:
        raise UserError(f"{where}: class numbers go up to {count - 1}", allowed=f"below {MOST_CLASSES:,}")


def _endless(values: h5py.Dataset, where: str) -> Texts:
    """Texts of any length. Raises UserError where they come to more than the file: all may point to one long text."""
    found: Texts = []
    left = Path(where).stat().st_size
    for block in blocks(len(values), _TEXTS):
        found += [v.decode() for v in values[block]]
        left -= sum(map(len, found[block]))
        if left < 0:
            raise UserError(f"{where}: {values.name} holds more text than the file has bytes")
    return found


def _rows_at_once(data: h5py.Dataset) -> int:
    row_bytes: int = max(1, math.prod(data.shape[1:]) * data.dtype.itemsize)
    few = max(1, min(_ROWS, _ROWS_BYTES // row_bytes))
    # A chunk is unpacked whole each time that some of it is read.
    return max(few, min(data.chunks[0], _CHUNK_BYTES // row_bytes) if data.chunks else 0)


def _as_pixels(rows: NDArray[np.number], where: str, name: str) -> Pixels:
    if rows.dtype == np.uint8:
        return np.asarray(rows, dtype=np.uint8)
    if rows.dtype.kind not in "iuf" or not np.all((rows >= 0) & (rows <= 255) & (rows == np.floor(rows))):
        raise UserError(f"{where}: {name} has values that are no pixels", allowed="whole numbers, 0 to 255")
    return rows.astype(np.uint8)
