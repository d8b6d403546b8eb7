"""One file of codes, `part-<number>.h5`: how it is written, and the one way to open it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, hdf5_files, json_files
from pipeline.base.errors import RefusedError, UserError
from pipeline.base.versions import VERSIONS
from pipeline.codes.stated import Stated

# What HDF5 says of a file that is not what was written.
_BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)
# Parts that were checked in this process: what codes.json says of them, and the file's state.
_checked: set[tuple[Any, ...]] = set()


def write(
    path: Path,
    names: NDArray[np.bytes_],
    codes: NDArray[np.floating[Any]],
    *,
    spec: str,
    settings: Mapping[str, Any],
    content: str,
) -> str:
    """names (n,) ids ascending, codes (n, dim); `content` is the digest of ids and settings. Returns the checksum."""
    checksum = _checksum(names, codes)
    with hdf5_files.new(path) as f:
        f.attrs["version"] = VERSIONS["codes"]
        f.attrs["spec"] = spec
        f.attrs["dim"] = codes.shape[1]
        f.attrs["fingerprint"] = json_files.fingerprint(dict(settings))
        f.attrs["settings"] = json_files.canonical(dict(settings))
        f.attrs["content"] = content
        f.attrs["checksum"] = checksum
        f.create_dataset("ids", data=names)
        f.create_dataset("codes", data=codes)
    return checksum


def checksum_if_fresh(path: Path, content: str) -> str | None:
    """The checksum of a whole part of these ids and settings, None if there is none."""
    try:
        with hdf5_files.opened(path) as f:
            if f.attrs["content"] == content and (hdf5_files.states_digest(path) or _has_its_checksum(f)):
                return str(f.attrs["checksum"])
    except PermissionError as e:
        raise RefusedError(f"no permission to read {path}") from e
    except (UserError, *_BROKEN):
        pass
    return None


@contextlib.contextmanager
def opened(folder: Path, name: str, stated: Stated) -> Iterator[h5py.File]:
    """A part that is what codes.json says. Its bytes, or its rows where it states no digest of them, are checked once
    as long as the file stays as it is.

    Raises UserError if it is missing, cut short or another one.
    """
    path = folder / name
    try:
        with hdf5_files.opened(path) as f:
            _require(f, path, name, stated)
            yield f
    except PermissionError as e:
        raise RefusedError(f"no permission to read {path}") from e
    except _BROKEN as e:
        detail = " ".join(str(e).split())[:200]
        raise RefusedError(
            f"{path} is missing, cut short or not the part that codes.json names ({detail})",
            see="run the extraction again",
        ) from e


def checked_ids(folder: Path, name: str, stated: Stated) -> NDArray[np.bytes_]:
    """(rows,) the ids in a part. Raises UserError as `opened`."""
    with opened(folder, name, stated) as f:
        ids: NDArray[np.bytes_] = f["ids"][()]
        return ids


def _require(f: h5py.File, path: Path, name: str, stated: Stated) -> None:
    """Raises ValueError unless a part is of the codes that codes.json says."""
    part, now = stated.parts[name], disk.state(path)
    key = (part.rows, part.checksum, stated.dim, stated.dtype, stated.fingerprint, now)
    if key in _checked:
        return
    codes, ids = f["codes"], f["ids"]
    if f.attrs["checksum"] != part.checksum or f.attrs["fingerprint"] != stated.fingerprint:
        raise ValueError("its checksum or its fingerprint is another")
    if codes.shape != (part.rows, stated.dim) or codes.dtype != stated.dtype or ids.shape != (part.rows,):
        raise ValueError(f"it has {codes.shape} {codes.dtype}, not {(part.rows, stated.dim)} {stated.dtype}")
    if not hdf5_files.states_digest(path) and not _has_its_checksum(f):
        raise ValueError("its rows do not match their checksum")
    if disk.is_settled(now):
        _checked.add(key)


def _has_its_checksum(f: h5py.File) -> bool:
    return bool(f.attrs["checksum"] == _checksum(f["ids"][()], f["codes"][()]))


def _checksum(names: NDArray[np.bytes_], codes: NDArray[Any]) -> str:
    """64 hex digits: sha256 of the ids' bytes, then the rows' bytes, in C order."""
    sha = hashlib.sha256(names.tobytes())
    sha.update(np.ascontiguousarray(codes).view(np.uint8).data)
    return sha.hexdigest()
