"""Decoded, resized images in the cache: an epoch reads pixels, it decodes nothing.

Each image is decoded once for a view and kept as a row of a store, in shards as codes are: a set with one image more
costs one image's decoding. What training reads is one immutable file that is put together from the store and holds the
images of one set at one view: its name is the fingerprint of both. Its rows are in the order of the digests of their
pixels, so that the file is the same whatever the images are called.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, json_files, stopping
from pipeline.base.errors import UserError
from pipeline.codes.cost import made_bytes
from pipeline.codes.settings import PREPROCESSING_VERSION
from pipeline.codes.store import Digests, Store
from pipeline.codes.writer import ShardWriter
from pipeline.config import MEMORY_MB
from pipeline.data import broken, cost, views
from pipeline.data.decode import DecodeError
from pipeline.data.listed import ChangedError
from pipeline.data.manifest import Manifest
from pipeline.data.originals import Originals, remembered
from pipeline.data.room import NoRoomError, Room
from pipeline.strategies import rows_file
from pipeline.strategies.rows_file import RowsFile

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
FOLDER = "finetune-images"
_BLOCK_BYTES = 16 << 20  # of a shard; about four are in memory while one is written
# A store that is damaged again and again is a failing disk.
_MAX_ROUNDS = 3


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

    Images that can't be read, whose file changed since it was listed, that turn out to be broken, or that alone need
    more memory are left out with a warning. Raises UserError if none can be read, more are broken than
    dataset.max_failed_share and on_error allow, or the disk is too small.
    """
    digests, inverse = np.unique(manifest.pixel_digests, return_inverse=True)
    first = np.unique(inverse, return_index=True)[1]
    about = {
        "view": view.view,
        "scale": view.scale,
        "background": list(view.background),
        "resampling": views.RESAMPLING,
        "preprocessing": PREPROCESSING_VERSION,
    }
    key = json_files.fingerprint({**about, "images": digests.tolist()})
    # Where some need more memory, what is in the file depends on how much they may have.
    folder, names = cache / FOLDER, (key, f"{key}-{memory_mb}mb")
    there = [name for name in names if (folder / f"{name}.npy").is_file() and (folder / f"{name}.json").is_file()]
    key = there[0] if there else ""
    left_out = _left_out(folder / f"{key}.json") if there else {}
    if left_out or not there:
        store = _store(about, view, cache)
        decoded = _Decoded(manifest, view, first, digests.astype("S64"), store, Room(memory_mb))
        # What could not be read at that time, of a disk that was away or a right that was missing, may be back.
        decoded.decode(np.array(list(left_out), dtype=np.int64))
        if not there or decoded.known[list(left_out)].any():
            key = _assembled(decoded, folder, names)
            left_out = _left_out(folder / f"{key}.json")
    path = folder / f"{key}.npy"
    for i, reason in left_out.items():
        log.warning("left out: %s: %s", manifest.paths[first[i]], reason)
    if left_out:
        broken.require_few(manifest, {row: left_out[i] for row, i in enumerate(inverse.tolist()) if i in left_out})
    if len(left_out) == len(digests):
        raise UserError("none of the images can be read", see="failures.csv beside the manifest")
    at = inverse.astype(np.int64)
    at[np.isin(at, list(left_out))] = -1
    return Images(path, at, key)


def _left_out(path: Path) -> dict[int, str]:
    """Position among the digests -> the reason, of the images that have no pixels."""
    return {int(i): reason for i, reason in json_files.read(path).items()}


def _store(about: Mapping[str, Any], view: CachedView, cache: Path) -> Store:
    """Rows of scale x scale x 3 values, for any set of images."""
    return Store({"spec": "pixels", **about}, dim=view.scale**2 * 3, dtype="uint8", root=cache, kind=FOLDER)


@dataclass
class _Decoded:
    """A set's images in the store. `rows` (n,): a row of the manifest for each of the `digests`; `reasons`: position
    among them -> why it could not be decoded, of those that were tried.
    """

    manifest: Manifest
    view: CachedView
    rows: NDArray[np.int64]
    digests: Digests
    store: Store
    room: Room
    reasons: dict[int, str | NoRoomError] = field(default_factory=dict)

    @property
    def known(self) -> NDArray[np.bool_]:
        return self.store.known(self.digests)

    @property
    def block(self) -> int:
        """Images that are decoded together: half of a shard, beside which memory has one that is written."""
        return max(1, _BLOCK_BYTES // self.store.dim // 2)

    def missing(self) -> NDArray[np.int64]:
        """Positions that the store lacks and that were not tried."""
        lacks = ~self.known
        lacks[list(self.reasons)] = False
        return np.flatnonzero(lacks)

    def decode(self, positions: NDArray[np.int64]) -> None:
        """Adds those of the images that the store lacks, ascending, a block in memory at a time."""
        positions = np.sort(positions[~self.known[positions]])
        self.store.clear_leftovers()
        with (
            stopping.says(self.kept),
            remembered() as originals,
            ShardWriter({"pixels": self.store}, 2 * self.block) as writer,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for start in range(0, len(positions), self.block):
                block = positions[start : start + self.block]
                pixels = np.zeros((len(block), self.store.dim), dtype=np.uint8)
                good = np.ones(len(block), dtype=bool)
                for i, image in enumerate(pool.map(lambda position: self._one(position, originals), block)):
                    if isinstance(image, np.ndarray):
                        pixels[i] = image.reshape(-1)
                    else:
                        good[i] = False
                        self.reasons[int(block[i])] = image
                writer.add(self.digests[block], {"pixels": pixels}, good, notes={})

    def kept(self) -> str:
        """What a run that is stopped leaves in the store, in words."""
        return f"{self.known.sum()} of {len(self.rows)} decoded images are kept; {stopping.GOES_ON}"

    def _one(self, position: np.int64, originals: Originals) -> Pixels | str | NoRoomError:
        """(scale, scale, 3), or why there is none."""
        manifest, row = self.manifest, int(self.rows[position])
        file, digest = manifest.file(row), str(manifest.sha256[row])
        max_pixels = int(manifest.widths[row] * manifest.heights[row])
        try:
            return from_file(file, self.view, digest=digest, max_pixels=max_pixels, room=self.room, originals=originals)
        except NoRoomError as e:
            return e


def _assembled(decoded: _Decoded, folder: Path, names: tuple[str, str]) -> str:
    """Decodes what the store lacks and writes the set's pixels, then what could not be read.

    Returns the name of both files: the first of `names`, or the second if some images needed more memory.
    """
    for _ in range(_MAX_ROUNDS):
        missing, count = decoded.missing(), len(decoded.rows)
        need_bytes = (len(missing) + count) * decoded.store.dim
        disk.require_space(folder, need_bytes, what=f"a cache of {count} decoded images")
        if len(missing):
            log.info("decoding %d images to %d pixels a side", len(missing), decoded.view.scale)
            decoded.decode(missing)
        name = names[any(isinstance(r, NoRoomError) for r in decoded.reasons.values())]
        # First, so that no kill leaves pixels beside a list of other ones.
        (folder / f"{name}.json").unlink(missing_ok=True)
        if _write(decoded, folder / f"{name}.npy"):
            reasons = {str(i): str(reason) for i, reason in sorted(decoded.reasons.items())}
            json_files.write(folder / f"{name}.json", reasons)
            return name
    raise UserError(
        f"the decoded images in {folder} were damaged {_MAX_ROUNDS} times while they were read",
        allowed="another disk, by CNNCODES_CACHE",
    )


def _write(decoded: _Decoded, path: Path) -> bool:
    """Writes (n, scale, scale, 3), zeros for those without pixels; False if a shard turned out damaged."""
    scale, store = decoded.view.scale, decoded.store
    known = decoded.known
    with contextlib.suppress(_DamagedError), disk.atomic_path(path) as made:
        with made.open("wb") as file:
            rows_file.begin(file, np.uint8, (len(known), scale, scale, 3))
            for start in range(0, len(known), decoded.block):
                has = known[start : start + decoded.block]
                pixels = np.zeros((len(has), store.dim), dtype=np.uint8)
                if has.any():
                    found = store.read(decoded.digests[start : start + decoded.block][has])
                    if found is None:
                        raise _DamagedError
                    pixels[has] = found
                file.write(pixels.data)
        return True
    return False


class _DamagedError(Exception):
    """A shard that can't be used."""


def from_file(
    file: Path,
    view: CachedView,
    *,
    max_pixels: int,
    room: Room,
    digest: str | None = None,
    originals: Originals | None = None,
    open_file: Callable[[Path], BinaryIO] | None = None,
) -> Pixels | str:
    """A file -> (scale, scale, 3), or in words why there is none. Raises NoRoomError if it needs more than the room.

    `digest`: the sha256 that it is listed with; `originals`: what is remembered of such files. `open_file` opens it to
    be read, `Path.open` if None.
    """
    try:
        with open_file(file) if open_file else file.open("rb") as opened:
            header = cost.look(opened, max_pixels=max_pixels)
            with room.hold(made_bytes(header, view=view.view, sizes=[(view.scale, view.scale)])):
                image = (originals or Originals()).decode(
                    file, opened, digest, background=view.background, max_pixels=max_pixels
                )
                return views.make(image, view=view.view, crop=view.scale, scales=[view.scale], flip=False)[0]
    except OSError as e:
        return f"can't be read: {e.strerror or e}"
    except (ChangedError, DecodeError) as e:
        return str(e)
