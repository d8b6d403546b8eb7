"""Images and labels in one HDF5 file, in one of two layouts.

Plain: `images` (n, H, W), (n, H, W, 1 | 3) or (n, 1 | 3, H, W); where both fit, the last axis is the channels. Beside
it, each optional and of length n: `labels` (whole numbers or text), `group` and `split` (text). The names of numbered
classes may stand in `labels`' attribute `classes`.

neon's HDF5Iterator: `input` (n, C*H*W) with the attribute `lshape` = (C, H, W); its `mean` is what a network subtracts,
is not applied to the stored values, and is not wanted here. `output` (n,) or (n, 1) holds class numbers, or (n, nclass)
one-hot rows, with the attribute `nclass`.

Values are uint8, or other numbers that are whole and from 0 to 255; the order of channels is RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import schema
from pipeline.config import DatasetParams
from pipeline.data.sources.base import Listing, Record, blocks, class_names, known_split, numbered, save_all
from pipeline.errors import UserError

if TYPE_CHECKING:
    import h5py

_ROWS = 64  # images read at a time, where they don't lie in larger chunks
_BLOCK_BYTES = 256 << 20  # in whatever chunks they lie
_TEXTS = 1024  # texts of any length read at a time
_MOST_CLASSES = 1_000_000


def read(params: DatasetParams, images: Path) -> Listing:
    """Unpacks the file `params.root` into PNGs. Raises UserError if it is missing or of no layout above."""
    where = params.root
    if not Path(where).is_file():
        raise UserError(f"dataset.root: {where} is not a file", allowed="an HDF5 file", see="docs/params.md")
    try:
        with schema.hdf5(where, theirs=True) as file:
            layout = next((read_it for name, read_it in _LAYOUTS.items() if name in file), None)
            if layout is None:
                raise UserError(f"{where} holds {sorted(file)}", allowed=f"a dataset {' or '.join(_LAYOUTS)}")
            data, shape, columns = layout(file, where)
            schema.require_space(images, len(data) * int(np.prod(shape)), what=f"unpacking {where}")
            paths = [numbered("", i) for i in range(len(data))]
            save_all(zip(paths, _pictures(data, shape, where), strict=True), images)
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as e:
        if isinstance(e, OSError):
            schema.raise_if_disk(e, images)
        raise UserError(f"{where} can't be read as HDF5: {e}") from e
    return Listing(images, [Record(*row) for row in zip(paths, *columns, strict=True)])


def _plain(file: h5py.File, where: str) -> tuple[h5py.Dataset, tuple[int, ...], list[list[str]]]:
    """The dataset, the shape of one image, and the columns label, group, split."""
    data = _dataset(file, "images", where)
    columns = []
    for name in ("labels", "group", "split"):
        values = _dataset(file, name, where) if name in file else None
        if values is not None and values.shape != data.shape[:1]:
            raise UserError(f"{where}: {name} is {values.shape}, images {data.shape}", allowed="one value an image")
        columns.append([""] * len(data) if values is None else _texts(values, where))
    columns[2] = [known_split(s, where=f"{where}: split") if s else "" for s in columns[2]]
    return data, tuple(data.shape[1:]), columns


def _neon(file: h5py.File, where: str) -> tuple[h5py.Dataset, tuple[int, ...], list[list[str]]]:
    data = _dataset(file, "input", where)
    shape = tuple(int(v) for v in np.ravel(data.attrs.get("lshape", ())))
    if data.ndim != 2 or len(shape) != 3 or min(shape) < 1 or math.prod(shape) != data.shape[1]:
        raise UserError(f"{where}: input is {data.shape} with lshape {shape}", allowed="(n, C*H*W), lshape (C, H, W)")
    none = [""] * len(data)
    if "output" not in file:
        return data, shape, [none, none, none]
    output = _dataset(file, "output", where)
    if len(output) != len(data) or output.ndim > 2 or output.dtype.kind not in "iuf":
        raise UserError(
            f"{where}: output is {output.shape} {output.dtype}, input {data.shape}",
            allowed="numbers (n,), (n, 1), (n, nclass)",
        )
    values, nclass = output[()], int(output.attrs.get("nclass", 0))
    if values.ndim == 2 and values.shape[1] > 1:
        if not np.all((values == 0) | (values == 1)) or not np.all(values.sum(axis=1) == 1):
            raise UserError(f"{where}: output has rows that are not one-hot", allowed="a single 1 a row, else 0")
        nclass, values = values.shape[1], values.argmax(axis=1)
    targets = np.ravel(values).astype(np.int64)
    nclass = nclass or int(targets.max(initial=0)) + 1
    _require_classes(nclass, where)
    if np.any(targets != np.ravel(values)) or np.any((targets < 0) | (targets >= nclass)):
        raise UserError(
            f"{where}: output has values that are no class", allowed=f"whole numbers from 0 to {nclass - 1}"
        )
    names = class_names((), nclass)
    return data, shape, [[names[t] for t in targets], none, none]


_LAYOUTS: dict[str, Callable[[Any, str], tuple[Any, tuple[int, ...], list[list[str]]]]] = {
    "images": _plain,
    "input": _neon,
}


def _dataset(file: h5py.File, name: str, where: str) -> h5py.Dataset:
    import h5py

    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.ndim == 0 or len(found) == 0:
        raise UserError(f"{where}: {name} is not a dataset with rows")
    return found


def _texts(values: h5py.Dataset, where: str) -> list[str]:
    """Text as it is; whole numbers by the attribute `classes`, or padded so that text sorts as numbers do."""
    if values.dtype.kind == "O":
        return _endless(values, where)
    array = values[()]
    if array.dtype.kind == "S":
        return [v.decode() for v in array]
    if array.dtype.kind not in "iu" or np.any(array < 0):
        raise UserError(f"{values.name} holds {array.dtype}", allowed="text, or whole numbers from 0")
    given = [v.decode() if isinstance(v, bytes) else str(v) for v in values.attrs.get("classes", ())]
    count = int(array.max()) + 1
    _require_classes(count, where)
    if given and len(given) < count:
        raise UserError(f"{values.name} goes up to {count - 1}, but names {len(given)} classes")
    names = class_names(given, len(given) or count)
    return [names[v] for v in array]


def _require_classes(count: int, where: str) -> None:
    """Raises UserError on more classes than can be told apart: each gets a name."""
    if count > _MOST_CLASSES:
        raise UserError(f"{where}: class numbers go up to {count - 1}", allowed=f"below {_MOST_CLASSES:,}")


def _endless(values: h5py.Dataset, where: str) -> list[str]:
    """Texts of any length. Raises UserError where they come to more than the file: all may point to one long text."""
    found: list[str] = []
    left = Path(where).stat().st_size
    for block in blocks(len(values), _TEXTS):
        found += [v.decode() for v in values[block]]
        left -= sum(map(len, found[block]))
        if left < 0:
            raise UserError(f"{where}: {values.name} holds more text than the file has bytes")
    return found


def _pictures(data: h5py.Dataset, shape: tuple[int, ...], where: str) -> Iterator[NDArray[np.uint8]]:
    """(H, W) or (H, W, 3) uint8, in order, read a block at a time."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and 1 not in _channels(shape) and 3 not in _channels(shape)):
        raise UserError(f"{where}: images of shape {shape}", allowed="(H, W), (H, W, 1 or 3) or (1 or 3, H, W)")
    # neon's lshape is always channels first, even where both ends are 3 wide
    first = len(shape) == 3 and (data.ndim == 2 or shape[2] not in (1, 3))
    # A chunk is unpacked whole each time that some of it is read.
    chunk_rows = data.chunks[0] if data.chunks else 0
    most_rows = _BLOCK_BYTES // (int(np.prod(shape)) * data.dtype.itemsize or 1)
    for block in blocks(len(data), max(_ROWS, min(chunk_rows, most_rows))):
        rows = data[block].reshape(-1, *shape)
        if rows.dtype != np.uint8:
            if rows.dtype.kind not in "iuf" or not np.all((rows >= 0) & (rows <= 255) & (rows == np.floor(rows))):
                raise UserError(
                    f"{where}: {data.name} has values that are no pixels", allowed="whole numbers, 0 to 255"
                )
            rows = rows.astype(np.uint8)
        for row in rows:
            picture = row.transpose(1, 2, 0) if first else row  # (H, W[, C])
            yield np.ascontiguousarray(picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture)


def _channels(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[-1]
