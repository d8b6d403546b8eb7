"""An index on disk: a folder of generations, and one small file that names the one in force.

    my.index/current.json            {"version", "generation", "manifest_sha256"}
    my.index/gen-000002/manifest.json what made it, settings, counts, and each file's size and sha256
    my.index/gen-000002/rows.h5      ids, packed bits, columns (label, path, a second code, ...)
    my.index/gen-000002/backend.bin  faiss's own bytes, for indexes that take long to build
    my.index/gen-000002/files/...    what else belongs to it (the hasher)

A change writes a whole new generation and then replaces `current.json`: killed at any instant, or read meanwhile,
there is the old index or the new one. Readers take no lock. Everything read is first checked against its sha256, so
that a folder cut short is refused; but checksums don't make a stranger's index safe: open that with `rebuild`, which
leaves `backend.bin` unread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline import schema
from pipeline.errors import UserError
from pipeline.index import INDEXES
from pipeline.index.base import Change, Ids, Packed, PackedIndex, State, checked_ids
from pipeline.index.faiss_backend import from_bytes, to_bytes
from pipeline.index.lock import LOCKS, writing
from pipeline.schema import sync

POINTER = "current.json"
_KEPT_GENERATIONS = 2  # the one in force, and the one that a reader may just have looked up
_ATTEMPTS = 5
_MANIFEST_KEYS = {"version", "kind", "index", "nbits", "settings", "count", "made_by", "columns", "files"}


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


def load(folder: str | Path, *, rebuild: bool = False) -> Saved:
    """The index in force, every byte of it checked.

    Raises UserError if there is none, or it is of another version, cut short, or changed by other hands. With
    `rebuild` the backend is built from the rows in place of being read.
    """
    folder = Path(folder)
    for attempt in range(_ATTEMPTS):
        pointer = _read_pointer(folder)
        try:
            return _read(folder / pointer["generation"], pointer["manifest_sha256"], rebuild=rebuild)
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
        data = path.read_bytes()
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
        sync(folder)  # the generation must be on disk before the pointer can name it
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    schema.write_json(
        folder / POINTER,
        {"version": schema.VERSIONS["index"], "generation": final.name, "manifest_sha256": digest},
    )
    for old in generations[: -(_KEPT_GENERATIONS - 1)]:
        shutil.rmtree(old)
    return digest


def _write(folder: Path, saved: Saved) -> str:
    """Writes a generation's files and returns the sha256 of its manifest, a function of the content alone."""
    index, state = saved.index, saved.index.state
    need = state.packed.nbytes * 2 + sum(v.nbytes for v in saved.columns.values()) + state.ids.nbytes
    schema.require_space(folder, need, what="the index")
    names = ["rows.h5"]
    with schema.atomic_path(folder / "rows.h5") as tmp, schema.hdf5(tmp, "w") as f:
        _put(f, "ids", state.ids)
        f.create_dataset("packed", data=state.packed)
        f.create_dataset("row_of", data=state.row_of)
        columns = f.create_group("columns")
        for name in sorted(saved.columns):
            _put(columns, name, saved.columns[name])
    blobs = {f"files/{_plain(name)}": data for name, data in saved.files.items()}
    if state.backend is not None:
        blobs["backend.bin"] = to_bytes(state.backend)
    for name, data in blobs.items():
        with schema.atomic_path(folder / name) as tmp:
            tmp.write_bytes(data)
        names.append(name)
    manifest = {
        "version": schema.VERSIONS["index"],
        "kind": "index",
        "index": index.name,
        "nbits": index.nbits,
        "settings": index.settings(),
        "count": len(index),
        "made_by": saved.made_by,
        "columns": sorted(saved.columns),
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": schema.sha256_file(folder / name)}
            for name in sorted(names)
        },
    }
    schema.write_json(folder / "manifest.json", manifest)
    return schema.sha256_file(folder / "manifest.json")


def _read(folder: Path, manifest_sha256: str, *, rebuild: bool) -> Saved:
    path = folder / "manifest.json"
    manifest = _manifest(path.read_bytes(), path, manifest_sha256)
    wanted = {n: e for n, e in manifest["files"].items() if not (rebuild and n == "backend.bin")}
    data = {name: _checked(folder / name, entry) for name, entry in wanted.items() if name != "rows.h5"}
    _check(folder / "rows.h5", wanted["rows.h5"], schema.sha256_file(folder / "rows.h5"))
    name, nbits, count = manifest["index"], manifest["nbits"], manifest["count"]
    if name not in INDEXES:
        raise UserError(f"{path} is of an unknown index {name!r}", allowed=INDEXES)
    with schema.hdf5(folder / "rows.h5") as f:
        ids, packed, row_of = _get(f["ids"]), f["packed"][:], f["row_of"][:]
        columns = {n: _get(f["columns"][n]) for n in manifest["columns"]}
    if len(ids) != count or packed.shape != (count, nbits // 8) or any(len(c) != count for c in columns.values()):
        raise UserError(f"{folder} does not hold the {count} rows of {nbits} bits that its manifest names", see=_MEND)
    if (ids[1:] <= ids[:-1]).any():
        raise UserError(f"{folder} holds ids out of order or twice", see=_MEND)
    backend = from_bytes(data.pop("backend.bin")) if "backend.bin" in data else None
    index = INDEXES[name].restored(nbits, manifest["settings"], State(ids, packed, backend, row_of))
    files = {n.removeprefix("files/"): blob for n, blob in data.items()}
    return Saved(index, manifest["made_by"], columns, files)


def _read_pointer(folder: Path) -> dict[str, str]:
    if not (folder / POINTER).is_file():
        raise UserError(f"{folder} is not an index", allowed=f"a folder with {POINTER}", see="`cnncodes index`")
    pointer = schema.read_json(folder / POINTER)
    if not isinstance(pointer, dict) or pointer.keys() != {"version", "generation", "manifest_sha256"}:
        raise UserError(f"{folder / POINTER} does not name a generation", see=_MEND)
    _require_version(folder / POINTER, pointer["version"])
    if not str(pointer["generation"]).startswith("gen-") or not str(pointer["generation"])[4:].isdigit():
        raise UserError(f"{folder / POINTER} names {pointer['generation']!r}", allowed="gen-NUMBER", see=_MEND)
    return pointer


def _manifest(data: bytes, path: Path, sha256: str) -> dict[str, Any]:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path} is not what was written: it was cut short or changed", see=_MEND)
    manifest = json.loads(data)
    _require_version(path, manifest.get("version"))
    if manifest.keys() != _MANIFEST_KEYS or manifest["kind"] != "index":
        raise UserError(f"{path} is no manifest of an index", allowed=sorted(_MANIFEST_KEYS), see=_MEND)
    return dict(manifest)


def _require_version(path: Path, version: object) -> None:
    if version != schema.VERSIONS["index"]:
        raise UserError(f"{path} has version {version!r}", allowed=[schema.VERSIONS["index"]], see=_MEND)


def _checked(path: Path, entry: dict[str, Any]) -> bytes:
    data = path.read_bytes()
    _check(path, entry, hashlib.sha256(data).hexdigest())
    return data


def _check(path: Path, entry: dict[str, Any], sha256: str) -> None:
    """Raises UserError unless a file has the checksum of its manifest entry."""
    if sha256 != entry["sha256"]:
        size = path.stat().st_size
        raise UserError(f"{path} is not what was written: {size} of {entry['bytes']} bytes, or changed", see=_MEND)


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
