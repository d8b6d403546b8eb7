"""The content-keyed store: immutable HDF5 shards of codes, rows keyed by the sha256 of the image's file.

`<cache>/codes/<key>/shard-<content>.h5`, where the key is the fingerprint of everything that changes a value. A shard's
name comes from its content, so that two runs at once either write different files or the same one, and no lock is
needed. A shard that is cut or changed is set aside (`.damaged`) with a warning and its rows are made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline import schema
from pipeline.cache import cache_root
from pipeline.codes.reader import Codes
from pipeline.errors import UserError

log = logging.getLogger(__name__)

Digests = NDArray[np.bytes_]  # (n,) S64: sha256 of image files, as 64 hex digits
Rows = NDArray[np.floating[Any]]  # (n, dim) float16 or float32

DAMAGED = ".damaged"
# What h5py raises on bytes that are no longer the HDF5 file they were.
_UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)
# A temporary file this old belongs to a run that was killed; younger ones may be another run's.
_ABANDONED_S = 24 * 3600


@dataclass(frozen=True)
class Shard:
    """One whole file and which images it holds: `digests` ascending."""

    path: Path
    digests: Digests


class Store:
    """The shards of one key. Appending is safe beside other runs; `refresh` sees what they wrote."""

    def __init__(self, settings: Mapping[str, Any], *, dim: int, dtype: str, root: Path | None = None) -> None:
        """`root` is the cache's folder. Nothing is made on disk before the first row."""
        self.settings = dict(settings)
        self.key = schema.fingerprint(self.settings)
        self.dim = dim
        self.dtype = np.dtype(dtype)
        self.folder = (root or cache_root()) / "codes" / self.key
        self._shards: dict[str, Shard] = {}
        self._verified: set[str] = set()
        self._order: tuple[Digests, NDArray[np.int32], NDArray[np.int32], list[Shard]] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Takes in the shards that are there now, setting damaged ones aside."""
        names = {p.name for p in self.folder.glob("shard-*.h5")}
        self._shards = {name: shard for name, shard in self._shards.items() if name in names}
        for name in sorted(names - self._shards.keys()):
            try:
                self._shards[name] = self._open(self.folder / name)
            except _DamagedError as e:
                self._set_aside(self.folder / name, str(e))
            except FileNotFoundError:
                # Another run set it aside between the listing and the opening.
                continue
        self._order = None

    def __len__(self) -> int:
        return len(self._index()[0])

    def known(self, digests: Digests) -> NDArray[np.bool_]:
        """(n,) whether each image has a row."""
        return self._locate(digests)[0] >= 0

    def append(self, digests: Digests, rows: Rows, *, notes: Mapping[str, Any] | None = None) -> None:
        """Writes one shard, whole or not at all: `digests` ascending and unique, `rows` (n, dim) of the store's dtype.

        Raises UserError if the disk is full; the shards that were there stay good.
        """
        assert rows.shape == (len(digests), self.dim) and rows.dtype == self.dtype
        rows = np.ascontiguousarray(rows)
        checksum = _checksum(digests, rows)
        path = self.folder / f"shard-{checksum[:32]}.h5"
        if path.name in self._shards:
            return
        with schema.atomic_path(path) as tmp, h5py.File(tmp, "w") as f:
            f.attrs["version"] = schema.VERSIONS["codes"]
            f.attrs["key"] = self.key
            f.attrs["settings"] = schema.canonical_json(self.settings)
            f.attrs["checksum"] = checksum
            f.attrs["notes"] = schema.canonical_json(dict(notes or {}))
            f.create_dataset("sha256", data=digests)
            f.create_dataset("codes", data=rows)
        self._shards[path.name] = Shard(path, digests)
        self._verified.add(path.name)
        self._order = None

    def read(self, digests: Digests) -> Rows | None:
        """(n, dim) rows in the order asked; None if some are missing or their shard turned out damaged.

        Every shard is checked against its checksum before its first row is used.
        """
        shard_of, row_of = self._locate(digests)
        if (shard_of < 0).any():
            return None
        shards = self._index()[3]
        out = np.empty((len(digests), self.dim), dtype=self.dtype)
        for number in np.unique(shard_of):
            wanted = np.flatnonzero(shard_of == number)
            try:
                self._read_from(shards[number], row_of[wanted], out, wanted)
            except _DamagedError as e:
                self._set_aside(shards[number].path, str(e))
                self.refresh()
                return None
        return out

    def _read_from(self, shard: Shard, rows: NDArray[np.int32], out: Rows, wanted: NDArray[np.int64]) -> None:
        try:
            with h5py.File(shard.path, "r") as f:
                if shard.path.name not in self._verified:
                    codes = f["codes"][()]
                    if _checksum(shard.digests, codes) != f.attrs["checksum"]:
                        raise _DamagedError("its content does not match its checksum")
                    self._verified.add(shard.path.name)
                    out[wanted] = codes[rows]
                else:
                    # Shards and requests are both sorted by digest, so the wanted rows lie close together.
                    first, last = int(rows.min()), int(rows.max())
                    out[wanted] = f["codes"][first : last + 1][rows - first]
        except _UNREADABLE as e:
            raise _damage(e, shard.path) from None

    def _open(self, path: Path) -> Shard:
        """Checks all but the rows themselves, which `read` checks."""
        try:
            with h5py.File(path, "r") as f:
                if f.attrs["version"] != schema.VERSIONS["codes"] or f.attrs["key"] != self.key:
                    raise _DamagedError("it is of another version or key")
                digests: Digests = f["sha256"][()]
                codes = f["codes"]
                if codes.shape != (len(digests), self.dim) or codes.dtype != self.dtype:
                    raise _DamagedError(f"it holds {codes.shape} {codes.dtype}")
        except FileNotFoundError:
            raise
        except _UNREADABLE as e:
            raise _damage(e, path) from None
        return Shard(path, digests)

    def _set_aside(self, path: Path, why: str) -> None:
        log.warning("%s is damaged (%s): it is set aside and its rows are made again", path, why)
        self._shards.pop(path.name, None)
        self._order = None
        with contextlib.suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + DAMAGED))

    def _locate(self, digests: Digests) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(n,) shard number, -1 if unknown, and (n,) row in that shard."""
        ordered, shard_of, row_of, _ = self._index()
        if not len(ordered):
            return np.full(len(digests), -1, dtype=np.int32), np.zeros(len(digests), dtype=np.int32)
        at = np.minimum(np.searchsorted(ordered, digests), len(ordered) - 1)
        found = ordered[at] == digests
        return np.where(found, shard_of[at], -1).astype(np.int32), row_of[at]

    def _index(self) -> tuple[Digests, NDArray[np.int32], NDArray[np.int32], list[Shard]]:
        """Every image once, ascending, with its shard's number and row; of two shards that hold it the first by name."""
        if self._order is None:
            shards = [self._shards[name] for name in sorted(self._shards)]
            sizes = [len(s.digests) for s in shards]
            everything = np.concatenate([np.empty(0, dtype="S64"), *(s.digests for s in shards)])
            shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
            row_of = np.concatenate([np.empty(0, dtype=np.int32), *(np.arange(n, dtype=np.int32) for n in sizes)])
            ordered, first = np.unique(everything, return_index=True)
            self._order = ordered, shard_of[first], row_of[first], shards
        return self._order


class _DamagedError(Exception):
    """A shard that cannot be used."""


def _damage(error: Exception, path: Path) -> _DamagedError:
    """Raises UserError if the file may not be read, which is no damage."""
    if isinstance(error, PermissionError):
        raise UserError(f"no permission to read {path}") from error
    return _DamagedError(" ".join(str(error).split()))


def _checksum(digests: Digests, rows: Rows) -> str:
    """64 hex digits: sha256 of the ids' bytes, then the rows' bytes, in C order."""
    sha = hashlib.sha256(np.ascontiguousarray(digests).data)
    sha.update(np.ascontiguousarray(rows).view(np.uint8).data)
    return sha.hexdigest()


def store_sizes(root: Path | None = None) -> list[dict[str, Any]]:
    """What the store holds, largest first: key, name, images, bytes; plain values for `cnncodes cache size`."""
    found = []
    for folder in _key_folders(root):
        images, name = 0, "?"
        for path in folder.glob("shard-*.h5"):
            with contextlib.suppress(*_UNREADABLE), h5py.File(path, "r") as f:
                images += f["sha256"].shape[0]
                about = json.loads(f.attrs["settings"])
                name = "-".join([about["arch"], about["layer"], about["pooling"], *(["l2"] * about["l2"])])
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


def _key_folders(root: Path | None) -> Iterator[Path]:
    top = (root or cache_root()) / "codes"
    if top.is_dir():
        with os.scandir(top) as found:
            yield from sorted(Path(e.path) for e in found if e.is_dir() and len(e.name) == 64)
