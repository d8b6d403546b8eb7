"""The content-keyed store: immutable HDF5 shards of codes, rows keyed by the image's pixels.

Pixels are named by the sha256 of the image's file, or by one that holds the decoder's version as well
(`Manifest.pixel_digests`).

`<cache>/codes/<key>/shard-<sha256>.h5`, where the key is the fingerprint of everything that changes a value. A shard is
named by the sha256 of its bytes, so that two runs at once either write different files or the same one, and no lock is
needed. Its bytes are checked against its name before HDF5 sees them: a damaged HDF5 file can hang its reader. Beside it
and written after it, `shard-<sha256>.ids` lists its images, so that looking up what is known opens no HDF5 file.

A shard may be replaced by one that holds all its rows and more, which is written first; whoever finds it gone looks for
that one. A shard that is cut or changed is set aside (`.damaged`) with a warning and its rows are made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import blobs, disk, hdf5_files, json_files, plain_json
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.codes.reader import Codes
from pipeline.config import LayerSpec

log = logging.getLogger(__name__)

Digests = NDArray[np.bytes_]  # (n,) S64: what names the pixels of images, 64 hex digits
Values = NDArray[Any]  # (n, dim) float16 or float32, or uint8 for pixels

DAMAGED = ".damaged"
_ROWS, _IDS = ".h5", ".ids"
_IDS_MAGIC = "cnncodes-ids"
# A temporary file this old belongs to a run that was killed; younger ones may be another run's.
_ABANDONED_S = 24 * 3600


@dataclass(frozen=True)
class Shard:
    """One file and which images it holds: `digests` ascending."""

    name: str  # without a suffix
    digests: Digests


@dataclass(frozen=True)
class _Index:
    """Every image once, ascending, with its shard and its row there; of several shards that hold it, the first."""

    digests: Digests
    shard_of: NDArray[np.int32]
    row_of: NDArray[np.int32]
    shards: list[Shard]

    @classmethod
    def of(cls, shards: list[Shard]) -> _Index:
        sizes = [len(s.digests) for s in shards]
        everything = np.concatenate([np.empty(0, dtype="S64"), *(s.digests for s in shards)])
        shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
        row_of = np.concatenate([np.empty(0, dtype=np.int32), *(np.arange(n, dtype=np.int32) for n in sizes)])
        ordered, first = np.unique(everything, return_index=True)
        return cls(ordered, shard_of[first], row_of[first], shards)

    def locate(self, digests: Digests) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(n,) shard number, -1 if unknown, and (n,) row in that shard."""
        if not len(self.digests):
            return np.full(len(digests), -1, dtype=np.int32), np.zeros(len(digests), dtype=np.int32)
        at = np.minimum(np.searchsorted(self.digests, digests), len(self.digests) - 1)
        found = self.digests[at] == digests
        return np.where(found, self.shard_of[at], -1).astype(np.int32), self.row_of[at]


class Store:
    """The shards of one key. Appending is safe beside other runs; `refresh` sees what they wrote."""

    def __init__(
        self, settings: Mapping[str, Any], *, dim: int, dtype: str, root: Path | None = None, kind: str = "codes"
    ) -> None:
        """`root` is the cache's folder, `kind` the folder in it. Nothing is made on disk before the first row."""
        self.settings = dict(settings)
        self.key = json_files.fingerprint(self.settings)
        self.dim = dim
        self.dtype = np.dtype(dtype)
        self.folder = (root or cache_root()) / kind / self.key
        self._blobs: blobs.Blobs = blobs.Folder(self.folder)
        self._shards: dict[str, Shard] = {}
        self._verified: set[str] = set()
        self._index: _Index | None = None
        self.refresh()

    def refresh(self) -> None:
        """Takes in the shards that are there now, setting aside those that were cut."""
        while not self._take_in(self._listed()):
            pass
        self._index = None

    def _listed(self) -> set[str]:
        return {name.removesuffix(_IDS) for name in self._blobs.names("shard-") if name.endswith(_IDS)}

    def _take_in(self, names: set[str]) -> bool:
        """Whether these shards were all still there; if not, others have taken their place."""
        self._shards = {name: shard for name, shard in self._shards.items() if name in names}
        for name in sorted(names - self._shards.keys()):
            try:
                self._shards[name] = Shard(name, _read_ids(self._blobs, name))
            except _DamagedError as e:
                if name not in self._listed():
                    return False
                self._set_aside(name, str(e))
        return True

    def known(self, digests: Digests) -> NDArray[np.bool_]:
        """(n,) whether each image has a row."""
        return self._current().locate(digests)[0] >= 0

    def append(
        self,
        digests: Digests,
        rows: Values,
        *,
        notes: Mapping[str, Any] | None = None,
        instead_of: str | None = None,
    ) -> str:
        """Writes one shard, whole or not at all: `digests` ascending and unique, `rows` (n, dim) of the store's dtype.

        Returns its name. `instead_of`: that of one whose rows are all among these, which is removed afterwards. Raises
        UserError if the disk is full; the shards that were there stay good.
        """
        assert rows.shape == (len(digests), self.dim) and rows.dtype == self.dtype
        image = io.BytesIO()
        with hdf5_files.new(image) as f:
            f.attrs["version"] = VERSIONS["codes"]
            f.attrs["key"] = self.key
            f.attrs["settings"] = json_files.canonical(self.settings)
            f.attrs["notes"] = json_files.canonical(dict(notes or {}))
            f.create_dataset("sha256", data=digests)
            f.create_dataset("codes", data=rows)
        content = image.getbuffer()
        name = f"shard-{hashlib.sha256(content).hexdigest()}"
        self._blobs.put(name + _ROWS, content)
        self._blobs.put(name + _IDS, _ids_bytes(digests, len(content)))
        self._shards[name] = Shard(name, digests)
        if instead_of not in (None, name):
            self._remove(str(instead_of))
        self._index = None
        return name

    def clear_leftovers(self) -> None:
        """Removes the temporary files of runs that were killed."""
        disk.clear_abandoned(self.folder, "shard-*")

    def _remove(self, name: str) -> None:
        """First the list, so that nobody looks for rows in a shard that is gone."""
        self._shards.pop(name, None)
        for suffix in (_IDS, _ROWS):
            with contextlib.suppress(FileNotFoundError):
                self._blobs.remove(name + suffix)

    def read(self, digests: Digests) -> Values | None:
        """(n, dim) rows in the order asked; None if some are missing or their shard turned out damaged.

        Every shard is checked in full before its first row is used.
        """
        while True:
            index = self._current()
            shard_of, row_of = index.locate(digests)
            if (shard_of < 0).any():
                return None
            out = np.empty((len(digests), self.dim), dtype=self.dtype)
            for number in np.unique(shard_of):
                wanted = np.flatnonzero(shard_of == number)
                name = index.shards[number].name
                path = self._blobs.local(name + _ROWS)
                try:
                    self._verify(path)
                    out[wanted] = _read_rows(path, row_of[wanted])
                except PermissionError as e:
                    raise UserError(f"no permission to read {path}") from e
                except (OSError, _DamagedError) as e:
                    if name not in self._listed():
                        break
                    self._set_aside(name, " ".join(str(e).split()))
                    return None
            else:
                return out
            self.refresh()

    def _verify(self, path: Path) -> None:
        if path.stem not in self._verified:
            _check_bytes(path)
            self._verified.add(path.stem)

    def _set_aside(self, name: str, why: str) -> None:
        where = self._blobs.local(name + _ROWS)
        log.warning("%s is damaged (%s): it is set aside and its rows are made again", where, why)
        self._shards.pop(name, None)
        self._verified.discard(name)
        self._index = None
        for suffix in (_IDS, _ROWS):
            with contextlib.suppress(FileNotFoundError):
                with contextlib.suppress(OSError):  # what can't be read at all is not kept to be looked at
                    self._blobs.put(name + suffix + DAMAGED, self._blobs.read(name + suffix))
                self._blobs.remove(name + suffix)

    def _current(self) -> _Index:
        if self._index is None:
            self._index = _Index.of([self._shards[name] for name in sorted(self._shards)])
        return self._index


def _read_rows(path: Path, rows: NDArray[np.int32]) -> Values:
    """Rows of a shard whose bytes are as they were written.

    Raises UserError where HDF5 can't read it all the same, which is no damage; OSError or _DamagedError where the bytes
    have changed since they were checked.
    """
    try:
        with hdf5_files.opened(path) as f:
            # Shards and requests are both sorted by digest, so the wanted rows lie close together.
            first, last = int(rows.min()), int(rows.max())
            found: Values = f["codes"][first : last + 1][rows - first]
            return found
    except OSError as e:
        _check_bytes(path)
        raise UserError(f"{path} is whole, but HDF5 can't read it ({' '.join(str(e).split())})") from e


def _check_bytes(path: Path) -> None:
    if f"shard-{disk.sha256(path)}" != path.stem:
        raise _DamagedError("its content does not match its name, which is its checksum")


class _DamagedError(Exception):
    """A shard that cannot be used."""


def _ids_bytes(digests: Digests, shard_bytes: int) -> bytes:
    """A line of magic, version, number of images, bytes of the shard and sha256 of the rest; then the digests."""
    rest = np.ascontiguousarray(digests).tobytes()
    head = (_IDS_MAGIC, VERSIONS["codes"], len(digests), shard_bytes, hashlib.sha256(rest).hexdigest())
    return " ".join(map(str, head)).encode() + b"\n" + rest


def _read_ids(place: blobs.Blobs, name: str) -> Digests:
    """The images in a shard. Raises _DamagedError if they or its length are not as stated."""
    try:
        content = place.read(name + _IDS)
        shard_bytes = place.size(name + _ROWS)
    except FileNotFoundError:
        raise _DamagedError("it is gone") from None
    except PermissionError as e:
        raise UserError(f"no permission to read {place.local(name + _ROWS)}") from e
    line, _, rest = content.partition(b"\n")
    if len(rest) % 64:
        raise _DamagedError("its list of images was cut")
    digests: Digests = np.frombuffer(rest, dtype="S64")
    if line + b"\n" + rest != _ids_bytes(digests, shard_bytes):
        raise _DamagedError("its length or its list of images is not as stated")
    return digests


def store_sizes(root: Path | None = None) -> list[dict[str, Any]]:
    """What the store holds, largest first: key, name, images, bytes; plain values for `cnncodes cache size`."""
    found = []
    for folder in _key_folders(root):
        images, name = 0, "?"
        for path in sorted(folder.glob("shard-*.ids")):
            with contextlib.suppress(_DamagedError, OSError):
                images += len(_read_ids(blobs.Folder(folder), path.stem))
                if name == "?":
                    name = _name_of(path.with_suffix(".h5"))
        used = sum(p.stat().st_size for p in folder.iterdir())
        found.append({"key": folder.name, "name": name, "images": images, "bytes": used})
    return sorted(found, key=lambda e: (-e["bytes"], e["key"]))


def store_gc(root: Path | None = None, *, keep: Iterable[Codes], dry_run: bool = False) -> int:
    """Removes every key but those of the codes to `keep`, and what damage and killed runs left. Returns bytes freed."""
    kept = {codes.fingerprint for codes in keep}
    freed, now_s = 0, time.time()
    for folder in _key_folders(root):
        for path in sorted(folder.iterdir()):
            abandoned = ".tmp" in path.name and now_s - path.stat().st_mtime > _ABANDONED_S
            if folder.name not in kept or path.name.endswith(DAMAGED) or abandoned:
                freed += path.stat().st_size
                if not dry_run:
                    path.unlink()
        if not dry_run and not any(folder.iterdir()):
            folder.rmdir()
    return freed


def _name_of(path: Path) -> str:
    """Architecture and spec of a shard. Raises _DamagedError if its bytes have changed."""
    _check_bytes(path)
    with hdf5_files.opened(path) as f:
        about = plain_json.loads(f.attrs["settings"])
    return f"{about['arch']}-{LayerSpec.named_in(about).name}"


def _key_folders(root: Path | None) -> Iterator[Path]:
    top = (root or cache_root()) / "codes"
    if top.is_dir():
        with os.scandir(top) as found:
            yield from sorted(Path(e.path) for e in found if e.is_dir() and len(e.name) == 64)
