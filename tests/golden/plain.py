"""Files read without the product: by h5py, json and struct alone. What must stay is what others can read of them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# The libraries whose version is part of the bytes that they write.
WRITERS = ("h5py", "numpy", "safetensors", "faiss-cpu")
# Of other files, whose bytes are HDF5's: they say the same wherever the content is the same.
_OF_BYTES = ("bytes", "sha256", "manifest_sha256")


def versions() -> dict[str, str]:
    """Library -> version; HDF5's own comes with h5py."""
    return {"hdf5": h5py.version.hdf5_version, **{name: version(name) for name in WRITERS}}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(folder: Path) -> list[Path]:
    """Below a folder, sorted, relative to it."""
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def name_of(path: Path) -> str:
    """A file's name without the digest of HDF5's bytes in it."""
    return re.sub(r"shard-[0-9a-f]{64}", "shard-SHA256", path.as_posix())


def content(path: Path) -> Any:
    """What a file says, in plain values, without what its writer's version may change."""
    if path.suffix == ".h5":
        return hdf5(path)
    if path.suffix == ".safetensors":
        return safetensors(path)
    if path.suffix == ".json":
        return _without(json.loads(path.read_text()))
    if path.suffix == ".ids":
        line, _, rest = path.read_bytes().partition(b"\n")
        magic, layout, count, _shard_bytes, digest = line.decode().split(" ")
        return {"line": [magic, layout, count, digest], "digests": sha256(rest)}
    if path.name == "backend.bin":
        return inverted_lists(path.read_bytes())
    return sha256(path.read_bytes())


def hdf5(path: Path) -> dict[str, Any]:
    """name -> attributes and values of each group and data set; `/` is the file itself."""
    with h5py.File(path, "r") as file:
        found = {"/": {"attributes": _attributes(file)}}
        file.visititems(lambda name, one: found.update({name: _described(one)}))
    return found


def _described(one: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"attributes": _attributes(one)}
    if isinstance(one, h5py.Dataset):
        values = np.asarray(one[()])
        about |= {
            "dtype": values.dtype.str,
            "shape": list(values.shape),
            "chunks": one.chunks,
            "sha256": digest(values),
        }
    return about


def _attributes(one: Any) -> dict[str, Any]:
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in sorted(one.attrs.items())}


def digest(values: Any) -> str:
    """Of an array's bytes in C order."""
    return sha256(np.ascontiguousarray(values).tobytes())


def safetensors(path: Path) -> dict[str, Any]:
    """Tensors by name, and the metadata as JSON; the format is 8 bytes of length, a JSON header, bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    about = {name: json.loads(text) for name, text in header.pop("__metadata__", {}).items()}
    tensors = {}
    for name, one in sorted(header.items()):
        start, stop = (8 + length + at for at in one["data_offsets"])
        tensors[name] = [one["dtype"], one["shape"], sha256(data[start:stop])]
    return {"metadata": about, "tensors": tensors}


def inverted_lists(data: bytes) -> dict[str, Any]:
    """The centres in what faiss writes of inverted lists: two heads of 25 bytes, 16 between them, 8 of a size."""
    kind, nbits = struct.unpack_from("<4si", data)
    (size,) = struct.unpack_from("<Q", data, 25 + 16 + 25)
    return {"kind": kind.decode(), "nbits": nbits, "centres": sha256(data[74 : 74 + size])}


def states_its_digest(path: Path) -> bool:
    """Whether an HDF5 file's first 512 bytes state the sha256 of the others."""
    data = path.read_bytes()
    return data[:512] == f"cnncodes-sha256 {sha256(data[512:])}\n".encode().ljust(512, b"\0")


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without(one) for name, one in value.items() if name not in _OF_BYTES}
    return [_without(one) for one in value] if isinstance(value, list) else value


def differences(stored: Any, found: Any, where: str = "") -> Iterator[str]:
    """Lines that say where two plain values differ."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for name in sorted(stored.keys() | found.keys(), key=str):
            here = f"{where}/{name}"
            if name not in found:
                yield f"{here} is gone"
            elif name not in stored:
                yield f"{here} is new"
            else:
                yield from differences(stored[name], found[name], here)
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for i, (a, b) in enumerate(zip(stored, found, strict=True)):
            yield from differences(a, b, f"{where}/{i}")
    elif type(stored) is not type(found) or stored != found:  # True is no 1
        yield f"{where}: {found!r}, was {stored!r}"
