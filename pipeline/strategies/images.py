"""Decoded, resized images in the cache: an epoch reads pixels, it decodes nothing.

One immutable file holds the images of one set at one view: its name is the fingerprint of both. Its rows are in the
order of the digests of their pixels, so that the file is the same whatever the images are called.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.codes.cost import made_bytes
from pipeline.codes.settings import PREPROCESSING_VERSION
from pipeline.config import MEMORY_MB
from pipeline.data import cost, views
from pipeline.data.decode import DecodeError, decode
from pipeline.data.manifest import Manifest
from pipeline.data.room import NoRoomError, Room
from pipeline.strategies.filling import filling
from pipeline.strategies.rows_file import RowsFile

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
FOLDER = "finetune-images"
_BLOCK_BYTES = 16 << 20  # of decoded images that wait to be written, at most


@dataclass(frozen=True)
class CachedView:
    """Square images of `scale` pixels a side: the centre of the image (crop) or all of it (squash)."""

    view: Literal["crop", "squash"]
    scale: int
    background: tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """Cached pixels of a manifest's images.

    `at` (n,): the row of each image of the manifest, -1 where it could not be read; `key` names what is in the file.
    """

    path: Path
    at: NDArray[np.int64]
    key: str

    @functools.cached_property
    def pixels(self) -> RowsFile:
        """(m, scale, scale, 3) uint8."""
        return RowsFile(self.path)


def cached(manifest: Manifest, view: CachedView, cache: Path, *, memory_mb: int = MEMORY_MB) -> Images:
    """The manifest's images at a view, decoded now unless the cache has them; those decoded at once share `memory_mb`.

    Images that can't be read, whose file changed since it was listed, or that alone need more memory are left out with
    a warning. Raises UserError if none can be read or the disk is too small.
    """
    digests, inverse = np.unique(manifest.pixel_digests, return_inverse=True)
    first = np.unique(inverse, return_index=True)[1]
    key = json_files.fingerprint(
        {
            "view": view.view,
            "scale": view.scale,
            "background": list(view.background),
            "resampling": views.RESAMPLING,
            "preprocessing": PREPROCESSING_VERSION,
            "images": digests.tolist(),
        }
    )
    # Where some need more memory, what is in the file depends on how much they may have.
    folder, names = cache / FOLDER, (key, f"{key}-{memory_mb}mb")
    there = [name for name in names if (folder / f"{name}.npy").is_file() and (folder / f"{name}.json").is_file()]
    room = Room(memory_mb)
    key = there[0] if there else _decode_all(manifest, view, first, folder, names=names, room=room)
    left_out = _left_out(folder / f"{key}.json")
    if there and any(isinstance(_one(manifest, int(first[i]), view, room), np.ndarray) for i in left_out):
        # What could not be read at that time, of a disk that was away or a right that was missing, is back.
        key = _decode_all(manifest, view, first, folder, names=names, room=room)
        left_out = _left_out(folder / f"{key}.json")
    path = folder / f"{key}.npy"
    for i, reason in left_out.items():
        log.warning("left out: %s: %s", manifest.paths[first[i]], reason)
    if len(left_out) == len(digests):
        raise UserError("none of the images can be read", see="failures.csv beside the manifest")
    at = inverse.astype(np.int64)
    at[np.isin(at, list(left_out))] = -1
    return Images(path, at, key)


def _left_out(path: Path) -> dict[int, str]:
    """Position among the digests -> the reason, of the images that have no pixels."""
    return {int(i): reason for i, reason in json_files.read(path).items()}


def _decode_all(
    manifest: Manifest, view: CachedView, rows: NDArray[np.int64], folder: Path, *, names: tuple[str, str], room: Room
) -> str:
    """Writes pixels of the manifest's `rows`, then what could not be read; a block of images in memory at a time.

    Returns the name of both files: the first of `names`, or the second if some images needed more memory.
    """
    shape = (len(rows), view.scale, view.scale, 3)
    image_bytes = math.prod(shape[1:])
    disk.require_space(folder, len(rows) * image_bytes, what=f"a cache of {len(rows)} decoded images")
    log.info("decoding %d images to %d pixels a side", len(rows), view.scale)
    count = max(1, _BLOCK_BYTES // image_bytes)
    blank = np.zeros((1, *shape[1:]), dtype=np.uint8)
    with (
        filling(folder / f"{names[1]}.npy", shape, np.uint8, what="decoded images") as out,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        reasons: dict[str, str] = out.notes.setdefault("reasons", {})
        for start in range(out.done, len(rows), count):
            block = rows[start : start + count]
            for i, image in enumerate(pool.map(lambda row: _one(manifest, int(row), view, room), block), start):
                if isinstance(image, np.ndarray):
                    out.append(image[None])
                else:
                    reasons[str(i)] = str(image)
                    if isinstance(image, NoRoomError):
                        out.notes["refused"] = True
                    out.append(blank)
        name = names["refused" in out.notes]
        out.keep()
        json_files.write(folder / f"{name}.json", reasons)
        out.finish(folder / f"{name}.npy")
    return name


def _one(manifest: Manifest, row: int, view: CachedView, room: Room) -> Pixels | str | NoRoomError:
    """(scale, scale, 3), or why there is none."""
    max_pixels = int(manifest.widths[row] * manifest.heights[row])
    try:
        return from_file(manifest.file(row), view, digest=str(manifest.sha256[row]), max_pixels=max_pixels, room=room)
    except NoRoomError as e:
        return e


def from_file(
    file: Path,
    view: CachedView,
    *,
    digest: str | None,
    max_pixels: int,
    room: Room,
    open_file: Callable[[Path], BinaryIO] | None = None,
) -> Pixels | str:
    """A file -> (scale, scale, 3), or in words why there is none. Raises NoRoomError if it needs more than the room.

    `open_file` opens it to be read, `Path.open` if None.
    """
    try:
        with open_file(file) if open_file else file.open("rb") as opened:
            header = cost.look(opened, max_pixels=max_pixels)
            with room.hold(made_bytes(header, view=view.view, sizes=[(view.scale, view.scale)])):
                return from_bytes(opened.read(), view, digest=digest, max_pixels=max_pixels, name=file.name)
    except OSError as e:
        return f"can't be read: {e.strerror or e}"


def from_bytes(data: bytes, view: CachedView, *, digest: str | None, max_pixels: int, name: str = "") -> Pixels | str:
    """A file's bytes -> (scale, scale, 3), or in words why there is none. `digest`: the sha256 they must have."""
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        return "the file changed since the dataset was listed"
    try:
        image = decode(
            data, background=view.background, max_pixels=max_pixels, known_whole=digest is not None, name=name
        )
    except DecodeError as e:
        return str(e)
    return views.make(image, view=view.view, crop=view.scale, scales=[view.scale], flip=False)[0]
