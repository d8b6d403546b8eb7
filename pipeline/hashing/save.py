"""Hashers and bits on disk: HDF5, plain arrays, checked whole when read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.base import fingerprints, hdf5_files, json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.hashing.base import HASHERS, Hasher
from pipeline.hashing.pack import BIT_ORDER, pack, unpack

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Fitted:
    """A hasher as read from disk. `settings`: those of the codes it was fitted on, which new codes must share."""

    hasher: Hasher
    settings: dict[str, Any]
    fingerprint: str

    def require(self, settings: dict[str, Any]) -> None:
        """Raises UserError, naming what differs, unless `settings` are those of the codes that it was fitted on."""
        differ = sorted(k for k in self.settings.keys() | settings.keys() if self.settings.get(k) != settings.get(k))
        if differ:
            pairs = "; ".join(f"{k}: {settings.get(k)!r}, not {self.settings.get(k)!r}" for k in differ)
            raise UserError(f"hasher {self.hasher.name} was fitted on other codes ({pairs})")


@dataclass(frozen=True)
class PackedBits:
    """The hashes of a collection. ids (n,) str, packed (n, nbits/8) uint8 in the order of `pack`."""

    ids: NDArray[np.str_]
    packed: NDArray[np.uint8]
    hasher: str
    hasher_fingerprint: str
    fingerprint: str

    @property
    def nbits(self) -> int:
        """Length of a code in bits."""
        return int(self.packed.shape[1] * 8)

    def unpacked(self) -> NDArray[np.bool_]:
        """(n, nbits) bool."""
        return unpack(self.packed)


def write_hasher(path: str | Path, hasher: Hasher, *, settings: dict[str, Any]) -> str:
    """Saves a fitted hasher and the settings of the codes that it was fitted on; returns its fingerprint."""
    arrays = dict(sorted(hasher.arrays().items()))
    head = {"kind": "hasher", "hasher": hasher.name, "params": hasher.params(), "settings": settings}
    mark = fingerprints.of_hashes(head, arrays)
    with hdf5_files.new(path) as f:
        _write_head(f, head, mark)
        for name, value in arrays.items():
            f.create_dataset(name, data=value)
    return mark


def read_hasher(path: str | Path) -> Fitted:
    """The hasher in a file. Raises UserError if it is missing, cut short, damaged, or of an unknown version."""
    with _opened(path) as f:
        head = _read_head(f, path, kind="hasher")
        arrays = {name: np.asarray(f[name][()]) for name in sorted(f)}
        mark = _checked(f, path, head, arrays)
        if head["hasher"] not in HASHERS:
            raise UserError(f"{path} holds a hasher {head['hasher']!r}", allowed=list(HASHERS))
        return Fitted(HASHERS[head["hasher"]].from_arrays(head["params"], arrays), head["settings"], mark)


def write_bits(
    path: str | Path, ids: NDArray[np.str_], bits: NDArray[np.bool_], *, hasher: str, hasher_fingerprint: str
) -> str:
    """Packs and saves bits (n, nbits) of images `ids` (n,); returns the file's fingerprint.

    Raises UserError if nbits is not a multiple of 8, or ids are too few, too many or not unique.
    """
    packed = pack(bits)
    if len(ids) != len(packed) or len(np.unique(ids)) != len(ids):
        raise UserError(f"{len(ids)} ids came with {len(packed)} rows of bits", allowed="one id of its own for each")
    arrays = {"ids": _encoded(ids), "packed": packed}
    head = {
        "kind": "bits",
        "hasher": hasher,
        "hasher_fingerprint": hasher_fingerprint,
        "nbits": bits.shape[1],
        "bit_order": BIT_ORDER,
    }
    mark = fingerprints.of_hashes(head, arrays)
    with hdf5_files.new(path) as f:
        _write_head(f, head, mark)
        f.create_dataset("ids", data=arrays["ids"])
        rows = max(1, min(len(packed), _CHUNK_BYTES // packed.shape[1]))
        f.create_dataset("packed", data=packed, chunks=(rows, packed.shape[1]) if len(packed) else None)
    return mark


def read_bits(path: str | Path) -> PackedBits:
    """The bits in a file. Raises UserError if it is missing, cut short, damaged, or of an unknown version."""
    with _opened(path) as f:
        head = _read_head(f, path, kind="bits")
        arrays = {"ids": f["ids"][()], "packed": f["packed"][()]}
        mark = _checked(f, path, head, arrays)
        ids = np.char.decode(arrays["ids"], "utf-8")
        return PackedBits(ids, arrays["packed"], head["hasher"], head["hasher_fingerprint"], mark)


def _encoded(ids: NDArray[np.str_]) -> NDArray[np.bytes_]:
    raw = [str(i).encode() for i in ids]
    return np.array(raw, dtype=f"S{max((len(r) for r in raw), default=1) or 1}")


def _write_head(f: h5py.File, head: dict[str, Any], mark: str) -> None:
    f.attrs["version"] = VERSIONS["bits"]
    f.attrs["fingerprint"] = mark
    for key, value in head.items():
        f.attrs[key] = json_files.canonical(value) if isinstance(value, dict) else value


def _read_head(f: h5py.File, path: str | Path, *, kind: str) -> dict[str, Any]:
    version = f.attrs.get("version")
    if f.attrs.get("kind") != kind:
        raise UserError(f"{path} is not a {kind} file", allowed=f"a {kind} file that cnncodes wrote")
    if version != VERSIONS["bits"]:
        raise UserError(f"{path} has layout version {version}", allowed=f"version {VERSIONS['bits']}")
    head = {k: v for k, v in f.attrs.items() if k not in ("version", "fingerprint")}
    for key in ("params", "settings"):
        if key in head:
            head[key] = plain_json.loads(head[key])
    return {k: int(v) if isinstance(v, np.integer) else v for k, v in head.items()}


def _checked(f: h5py.File, path: str | Path, head: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    mark = fingerprints.of_hashes(head, arrays)
    if f.attrs["fingerprint"] != mark:
        raise UserError(f"{path} is damaged: its content does not match its fingerprint", allowed="the file as written")
    return mark


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[h5py.File]:
    """The file for reading; whatever HDF5 says of a bad one becomes a UserError."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    try:
        with hdf5_files.opened(path) as f:
            yield f
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as e:
        detail = " ".join(str(e).split())[:200]
        raise UserError(f"{path} can't be read ({detail}); it may have been cut short", see="make it again") from None
