"""An index on disk: a folder of generations, and one small file that names the one in force.

    my.index/current.json            {"version", "generation", "manifest_sha256"}
    my.index/gen-000002/manifest.json what made it, settings, counts, and each file's size and sha256
    my.index/gen-000002/rows.h5      ids, packed bits, columns (label, path, a second code, ...)
    my.index/gen-000002/backend.bin  what the rows don't tell of the index: the centres of inverted lists
    my.index/gen-000002/files/...    what else belongs to it (the hasher)

A change writes a whole new generation and then replaces `current.json`: killed at any instant, or read meanwhile,
there is the old index or the new one. Readers take no lock. Everything read is first checked against its sha256, so
that a folder cut short is refused. Checksums don't make a stranger's index safe. So only the files that have a name
above are read, if they are files (no links, pipes or devices) of the size that the manifest states; and faiss never
reads their bytes: an index is built from its rows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, hdf5_files, json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.base.failing import place
from pipeline.base.versions import VERSIONS
from pipeline.search import INDEXES
from pipeline.search.base import Change, Ids, Packed, PackedIndex, checked_ids
from pipeline.search.lock import LOCKS, writing

POINTER = "current.json"
_ROWS, _BACKEND = "rows.h5", "backend.bin"
_MOST_MANIFEST_BYTES = 16 << 20
_KEPT_GENERATIONS = 2  # the one in force, and the one that a reader may just have looked up
_ATTEMPTS = 5
_MANIFEST_KEYS = {"version", "kind", "index", "nbits", "settings", "count", "made_by", "columns", "files"}
_TYPES = {"nbits": int, "count": int, "settings": dict, "made_by": dict, "columns": list, "files": dict}


@dataclass
class Saved:
    """An index with what belongs to it. Not for use by several threads: a writer's copy, or a reader's snapshot.

    made_by: hasher, its fingerprint, spec, weights' sha256, preprocessing, ...: JSON, and what new codes must share.
    columns: name -> (n, ...) array of numbers or strings, in the order of `index.ids`. files: name -> bytes.
    """

    index: PackedIndex
    made_by: dict[str, Any]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, packed: Packed, ids: Ids, columns: dict[str, NDArray[Any]] | None = None) -> Change:
        """Rows with a value for each column. Raises UserError, with nothing changed, unless all fits."""
        columns = columns or {}
        if columns.keys() != self.columns.keys():
            raise UserError(f"columns {sorted(columns)} for new rows", allowed=sorted(self.columns) or "none")
        ids = checked_ids(ids)
        for name, values in columns.items():
            if len(values) != len(ids) or values.shape[1:] != self.columns[name].shape[1:]:
                raise UserError(f"column {name} has shape {values.shape} for {len(ids)} new rows")
        before = self.index.ids
        change = self.index.add(packed, ids)
        order = np.argsort(np.concatenate([before, ids]), kind="stable")
        self.columns = {
            name: np.concatenate([old, _like(columns[name], old, name)])[order] for name, old in self.columns.items()
        }
        return change

    def remove(self, ids: Ids) -> Change:
        """Rows by id, all of which must be there."""
        kept = ~np.isin(self.index.ids, ids)
        change = self.index.remove(ids)
        self.columns = {name: values[kept] for name, values in self.columns.items()}
        return change

    def require(self, made_by: dict[str, Any]) -> None:
        """Raises UserError, naming what differs, unless codes made by `made_by` belong in this index."""
        differ = sorted(k for k in self.made_by.keys() | made_by.keys() if self.made_by.get(k) != made_by.get(k))
        if differ:
            pairs = "; ".join(f"{k} {made_by.get(k)!r}, not {self.made_by.get(k)!r}" for k in differ)
            raise UserError(f"the index was made from other codes ({pairs})", see="`cnncodes index info`")


def create(folder: str | Path, saved: Saved) -> str:
    """Writes a new index and returns its fingerprint. Raises UserError if something is there already."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(p.name not in LOCKS for p in folder.iterdir())):
        raise UserError(f"{folder} is there already", allowed="a new folder", see="`cnncodes index add`")
    with writing(folder, make=True):
        return _publish(folder, saved)


@contextlib.contextmanager
def updating(folder: str | Path) -> Iterator[Saved]:
    """Yields the index to change, and publishes it on success; on an error the old one stays in force.

    Raises UserError if another process is changing it: of two adds neither is lost.
    """
    folder = Path(folder)
    with writing(folder, make=False):
        saved = load(folder)
        yield saved
        _publish(folder, saved)


def load(folder: str | Path) -> Saved:
    """The index in force, every byte of it checked.

    Raises UserError if there is none, or it is of another version, cut short, or changed by other hands.
    """
    folder = Path(folder)
    for attempt in range(_ATTEMPTS):
        pointer = _read_pointer(folder)
        try:
            return _read(folder / pointer["generation"], pointer["manifest_sha256"])
        except FileNotFoundError as e:
            # Two changes since the pointer was read have removed what it named: look again.
            if attempt == _ATTEMPTS - 1 or _read_pointer(folder) == pointer:
                raise UserError(f"{folder} is not whole: {e.filename or e} is missing", see=_MEND) from None
    raise UserError(f"{folder} changed {_ATTEMPTS} times while it was read", allowed="try again")


def info(folder: str | Path) -> dict[str, Any]:
    """The manifest in force, its fingerprint under `fingerprint`; reads no rows."""
    pointer = _read_pointer(Path(folder))
    path = Path(folder) / pointer["generation"] / "manifest.json"
    try:
        data = _bytes(path, most=_MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        raise UserError(f"{folder} is not whole: {path.name} is missing", see=_MEND) from None
    return {**_manifest(data, path, pointer["manifest_sha256"]), "fingerprint": pointer["manifest_sha256"]}


_MEND = "`cnncodes index`, which makes it again"


def _publish(folder: Path, saved: Saved) -> str:
    """Writes the next generation, puts it in force, and clears away what no reader can still be after."""
    generations = sorted(folder.glob("gen-[0-9]*"))
    number = 1 + max((int(g.name[4:]) for g in generations), default=0)
    for leftover in folder.glob(".gen-*"):  # of a writer that was killed; the lock says that none is at work
        shutil.rmtree(leftover)
    staging, final = folder / f".gen-{number:06d}", folder / f"gen-{number:06d}"
    try:
        (staging / "files").mkdir(parents=True)
        digest = _write(staging, saved)
        staging.rename(final)
        disk.sync(folder)  # the generation must be on disk before the pointer can name it
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    json_files.write(
        folder / POINTER,
        {"version": VERSIONS["index"], "generation": final.name, "manifest_sha256": digest},
    )
    for old in generations[: -(_KEPT_GENERATIONS - 1)]:
        shutil.rmtree(old)
    return digest


def _write(folder: Path, saved: Saved) -> str:
    """Writes a generation's files and returns the sha256 of its manifest, a function of the content alone."""
    index, state = saved.index, saved.index.state
    need = state.packed.nbytes * 2 + sum(v.nbytes for v in saved.columns.values()) + state.ids.nbytes
    disk.require_space(folder, need, what="the index")
    names = [_ROWS]
    with hdf5_files.new(folder / _ROWS, digest=False) as f:
        _put(f, "ids", state.ids)
        f.create_dataset("packed", data=state.packed)
        f.create_dataset("row_of", data=state.row_of)  # for earlier versions, which kept each index's own order
        columns = f.create_group("columns")
        for name in sorted(saved.columns):
            _put(columns, name, saved.columns[name])
    blobs = {f"files/{_plain(name)}": data for name, data in saved.files.items()}
    if kept := index.kept():
        blobs[_BACKEND] = kept
    for name, data in blobs.items():
        with disk.atomic_path(folder / name) as tmp:
            tmp.write_bytes(data)
        names.append(name)
    manifest = {
        "version": VERSIONS["index"],
        "kind": "index",
        "index": index.name,
        "nbits": index.nbits,
        "settings": index.settings(),
        "count": len(index),
        "made_by": saved.made_by,
        "columns": sorted(saved.columns),
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": disk.sha256(folder / name)}
            for name in sorted(names)
        },
    }
    json_files.write(folder / "manifest.json", manifest)
    return disk.sha256(folder / "manifest.json")


def _read(folder: Path, manifest_sha256: str) -> Saved:
    for inside in (folder, folder / "files"):
        if inside.is_symlink():
            raise UserError(f"{inside} is a link", allowed="a folder of the index's own", see=_MEND)
    path = folder / "manifest.json"
    manifest = _manifest(_bytes(path, most=_MOST_MANIFEST_BYTES), path, manifest_sha256)
    data = {name: _checked(folder / name, entry) for name, entry in manifest["files"].items() if name != _ROWS}
    rows, entry = folder / _ROWS, manifest["files"][_ROWS]
    with _regular(rows, bytes_=entry["bytes"]) as file:
        _check(rows, entry, hashlib.file_digest(file, "sha256").hexdigest())
    name, nbits, count = manifest["index"], manifest["nbits"], manifest["count"]
    try:
        with hdf5_files.opened(rows) as f:
            ids, packed = _get(f["ids"]), f["packed"][:]
            columns = {n: _get(f["columns"][n]) for n in manifest["columns"]}
    except (KeyError, ValueError) as e:
        raise UserError(f"{rows} does not hold what its manifest names: {e}", see=_MEND) from None
    told = packed.dtype == np.uint8 and packed.shape == (count, nbits // 8)
    if not told or any(len(values) != count for values in (ids, *columns.values())):
        raise UserError(f"{folder} does not hold the {count} rows of {nbits} bits that its manifest names", see=_MEND)
    if (ids[1:] <= ids[:-1]).any():
        raise UserError(f"{folder} holds ids out of order or twice", see=_MEND)
    kept = data.pop(_BACKEND, b"")
    try:
        index = INDEXES[name].restored(nbits, manifest["settings"], ids, packed, kept=kept)
    except TypeError as e:
        raise UserError(f"{path} has settings that {name} doesn't know: {e}", see=_MEND) from None
    files = {n.removeprefix("files/"): blob for n, blob in data.items()}
    return Saved(index, manifest["made_by"], columns, files)


def _read_pointer(folder: Path) -> dict[str, str]:
    if not (folder / POINTER).is_file():
        raise UserError(
            f"{folder} is not an index", allowed="a folder that `cnncodes index` made", see="`cnncodes index --help`"
        )
    pointer = _json(_bytes(folder / POINTER, most=_MOST_MANIFEST_BYTES), folder / POINTER)
    if not isinstance(pointer, dict) or pointer.keys() != {"version", "generation", "manifest_sha256"}:
        raise UserError(f"{folder / POINTER} does not name a generation", see=_MEND)
    _require_version(folder / POINTER, pointer["version"])
    if not str(pointer["generation"]).startswith("gen-") or not str(pointer["generation"])[4:].isdigit():
        raise UserError(f"{folder / POINTER} names {pointer['generation']!r}", allowed="gen-NUMBER", see=_MEND)
    return pointer


def _manifest(data: bytes, path: Path, sha256: str) -> dict[str, Any]:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path} is not what was written: it was cut short or changed", see=_MEND)
    manifest = _json(data, path)
    if not isinstance(manifest, dict) or manifest.keys() != _MANIFEST_KEYS or manifest["kind"] != "index":
        raise UserError(f"{path} is not the manifest of an index", allowed=sorted(_MANIFEST_KEYS), see=_MEND)
    _require_version(path, manifest["version"])
    if not isinstance(manifest["index"], str) or manifest["index"] not in INDEXES:
        raise UserError(f"{path} is of an unknown index {manifest['index']!r}", allowed=INDEXES)
    wrong = [key for key, kind in _TYPES.items() if type(manifest[key]) is not kind]
    wrong += [key for key in ("nbits", "count") if key not in wrong and manifest[key] < 0]
    if wrong or not all(isinstance(name, str) for name in manifest["columns"]):
        raise UserError(f"{path} has other values than an index has in {', '.join(wrong) or 'columns'}", see=_MEND)
    _require_files(path, manifest["files"])
    return manifest


def _require_files(path: Path, files: dict[str, Any]) -> None:
    """Raises UserError unless the manifest names the rows, nothing beyond what an index has, and each one's size."""
    if _ROWS not in files:
        raise UserError(f"{path} names no {_ROWS}", see=_MEND)
    for name, entry in files.items():
        if name not in (_ROWS, _BACKEND):
            folder, slash, rest = name.partition("/")
            if (folder, slash) != ("files", "/"):
                raise UserError(f"{path} names {name!r}", allowed=f"{_ROWS}, {_BACKEND} and files/NAME", see=_MEND)
            _plain(rest)
        sound = isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"}
        if not sound or type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
            raise UserError(f"{path} does not state the size and sha256 of {name}", see=_MEND)


def _json(data: bytes, path: Path) -> Any:
    try:
        return plain_json.loads(data)
    except ValueError as e:
        raise UserError(f"{path} is not JSON ({str(e)[:80]}); it may have been cut short", see=_MEND) from None


@contextlib.contextmanager
def _regular(path: Path, *, bytes_: int) -> Iterator[io.BufferedReader]:
    """A file for reading, of the stated size. Raises UserError for a link, pipe, device or folder in its place."""
    try:
        # Without waiting: a pipe has no other end.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as e:
        if e.errno in (errno.EACCES, errno.EPERM):
            disk.raise_if_disk(e, path)
        why = (e.strerror or str(e)).lower()
        raise UserError(f"{path} can't be read: {why}", allowed="a file, no link", see=_MEND) from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is not a file", see=_MEND)
        if found.st_size != bytes_:
            raise UserError(f"{path} is not what was written: {found.st_size} of {bytes_} bytes", see=_MEND)
        with place(path), os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def _bytes(path: Path, *, most: int) -> bytes:
    """All of a small file whose size nothing states."""
    size = path.lstat().st_size
    if size > most:
        raise UserError(f"{path} has {size} bytes", allowed=f"up to {most}", see=_MEND)
    with _regular(path, bytes_=size) as file:
        return file.read()


def _require_version(path: Path, version: object) -> None:
    if version != VERSIONS["index"]:
        raise UserError(f"{path} has version {version!r}", allowed=[VERSIONS["index"]], see=_MEND)


def _checked(path: Path, entry: dict[str, Any]) -> bytes:
    with _regular(path, bytes_=entry["bytes"]) as file:
        data = file.read()
    _check(path, entry, hashlib.sha256(data).hexdigest())
    return data


def _check(path: Path, entry: dict[str, Any], sha256: str) -> None:
    """Raises UserError unless a file has the checksum of its manifest entry."""
    if sha256 != entry["sha256"]:
        raise UserError(f"{path} is not what was written: it was changed", see=_MEND)


def _put(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    """Strings as UTF-8 bytes of one length, marked as text; numbers as they are."""
    text = values.dtype.kind == "U"
    dataset = group.create_dataset(_plain(name), data=np.char.encode(values, "utf-8") if text else values)
    dataset.attrs["text"] = text


def _get(dataset: h5py.Dataset) -> NDArray[Any]:
    values: NDArray[Any] = dataset[:]
    return np.char.decode(values, "utf-8") if dataset.attrs["text"] else values


def _plain(name: str) -> str:
    """A name that stays inside its folder. Raises UserError otherwise."""
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"name {name!r}", allowed="a plain file name")
    return name


def _like(values: NDArray[Any], old: NDArray[Any], name: str) -> NDArray[Any]:
    """New values of a column in its dtype; strings may be longer. Raises UserError if a number would change."""
    if old.dtype.kind == "U" and values.dtype.kind == "U":
        return values
    cast = values.astype(old.dtype)
    if old.dtype.kind == "U" or values.dtype.kind == "U" or not np.array_equal(cast, values):
        raise UserError(f"column {name} got {values.dtype}", allowed=str(old.dtype))
    return cast
