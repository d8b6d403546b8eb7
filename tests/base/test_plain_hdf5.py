"""What a stranger's HDF5 file could do is refused by one sentence before a value is read; what h5py writes is read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.base import disk, hdf5_files, plain_hdf5
from pipeline.base.errors import UserError

SECRET = b"a line of another file"
Fill = Callable[[h5py.File, Path], Any]


def external(f: h5py.File, secret: Path) -> None:
    f.create_dataset("a/labels", shape=(2,), dtype="S11", external=[(str(secret), 0, 22)])


def virtual(f: h5py.File, secret: Path) -> None:
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["x"] = np.arange(4)
    layout = h5py.VirtualLayout(shape=(4,), dtype="i8")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "x", shape=(4,))
    f.create_virtual_dataset("x", layout)


def group_in_itself(f: h5py.File, secret: Path) -> None:
    f["a/b"] = f["/"]


def another_filter(f: h5py.File, secret: Path) -> None:
    """One that is registered nowhere, as a plugin's would be."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_filter(32008, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((4,), (4,))
    h5py.h5d.create(f.id, b"x", h5py.h5t.NATIVE_INT8, space, plist)


def deep(f: h5py.File, secret: Path) -> None:
    f.create_group("/".join("a" * (plain_hdf5.MAX_DEPTH + 2)))


def many(f: h5py.File, secret: Path) -> None:
    for i in range(plain_hdf5.MAX_OBJECTS + 1):
        f[f"{i}"] = f["x"] if i else h5py.Empty("i1")
        if not i:
            f["x"] = f["0"]


def many_attributes(f: h5py.File, secret: Path) -> None:
    for i in range(plain_hdf5.MAX_ATTRIBUTES + 1):
        f.attrs[f"{i}"] = 0


def shared(f: h5py.File, secret: Path) -> None:
    """2 MB that are linked to 200 times."""
    f["x"] = np.zeros(2 << 20, np.uint8)
    for i in range(200):
        f[f"x{i}"] = f["x"]


def texts(f: h5py.File, secret: Path) -> None:
    """Attributes of 4,000 texts beside a megabyte of text, which each of them could be."""
    f.attrs["long"] = "x" * (1 << 20)
    f.attrs["names"] = ["short"] * 4000


FAR: dict[str, tuple[Fill, str]] = {
    "external storage": (external, "keeps /a/labels in another file"),
    "a virtual dataset": (virtual, "keeps /x in another file"),
    "an external link": (
        lambda f, s: f.__setitem__("a/x", h5py.ExternalLink(str(s), "/x")),
        "keeps /a/x in another file, or behind a link",
    ),
    "a soft link": (lambda f, s: f.__setitem__("x", h5py.SoftLink("/y")), "keeps /x in another file, or behind a link"),
    "a group in itself": (group_in_itself, "holds the group /a/b in several places"),
    "a type by name": (lambda f, s: f.__setitem__("x", np.dtype("i4")), "neither a group nor a dataset"),
    "a filter of a plugin": (another_filter, r"packs /x by the filters \[32008\]"),
    "a huge chunk": (
        lambda f, s: f.create_dataset("x", (1,), "u1", chunks=(3 << 30,), maxshape=(None,)),
        "keeps /x in chunks of 3,221,225,472 bytes",
    ),
    "a size that lies, in chunks": (
        lambda f, s: f.create_dataset("x", (1 << 20, 1 << 20), "f4", chunks=(16, 16)),
        "states 4,398,046,511,104 bytes for /x",
    ),
    "a size that lies": (lambda f, s: f.create_dataset("x", (1 << 40,), "u1"), "states 1,099,511,627,776 bytes"),
    "zeros packed": (
        lambda f, s: f.create_dataset("x", data=np.zeros(100 << 20, np.uint8), compression=9, chunks=(1 << 24,)),
        "states 104,857,600 bytes for /x",
    ),
    "one array in many places": (shared, "bytes for its arrays"),
    "deep groups": (deep, "holds more than is read"),
    "many objects": (many, "holds more than is read"),
    "many attributes": (many_attributes, "has 1001 attributes"),
    "texts that share": (texts, "4001 attributes or texts"),
    "opaque bytes": (lambda f, s: f.__setitem__("x", np.void(b"pickle")), "holds |V6"),
    "a reference": (lambda f, s: f.create_dataset("x", data=f.ref, dtype=h5py.ref_dtype), "holds object"),
    "a list of any length": (lambda f, s: f.create_dataset("x", (1,), h5py.vlen_dtype(np.int32)), "holds object"),
}


@pytest.mark.parametrize("name", FAR)
def test_refused_before_a_value_is_read(name: str, tmp_path: Path) -> None:
    fill, why = FAR[name]
    (tmp_path / "secret.txt").write_bytes(SECRET)
    with h5py.File(tmp_path / "x.h5", "w", libver="latest" if name == "many attributes" else None) as f:
        fill(f, tmp_path / "secret.txt")
    started_s = time.perf_counter()
    for theirs in (False, True):
        with pytest.raises(UserError, match=why) as told:
            hdf5_files.opened(tmp_path / "x.h5", theirs=theirs)
        assert "\n" not in str(told.value) and "x.h5" in str(told.value)
    content = BytesIO((tmp_path / "x.h5").read_bytes())
    with pytest.raises(UserError, match=why):
        hdf5_files.opened(content, theirs=True, where="an archive")
    assert time.perf_counter() - started_s < 10


def test_what_h5py_packs_is_read(tmp_path: Path) -> None:
    values = np.arange(30_000, dtype=np.int32).reshape(100, 300)
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f["plain"] = values
        f.create_dataset("gzip", data=values, compression="gzip", shuffle=True, fletcher32=True)
        f.create_dataset("lzf", data=values, compression="lzf")
        f.create_dataset("scaled", data=values, scaleoffset=0)
        f.create_dataset("grows", data=values, maxshape=(None, 300))
        f["group/again"] = f["plain"]
        f["none"] = h5py.Empty("f4")
        f["flags"] = values > 3
        f["plain"].make_scale("x")
        f["gzip"].dims[0].attach_scale(f["plain"])
        f.attrs["names"] = ["a", "b"]
    with hdf5_files.opened(tmp_path / "x.h5") as f:
        for name in ("plain", "gzip", "lzf", "scaled", "grows", "group/again"):
            assert np.array_equal(f[name][()], values)


def test_text_of_any_length_is_for_other_programs_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as f:
        f["labels"] = ["cat", "a dog"]
    with hdf5_files.opened(tmp_path / "x.h5", theirs=True) as f:
        assert f["labels"].asstr()[1] == "a dog"
    with pytest.raises(OSError, match="digest"):
        hdf5_files.opened(tmp_path / "x.h5")


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder", "/dev/zero"):
        with pytest.raises(UserError, match="is not a file; allowed: a regular file"):
            hdf5_files.opened(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        hdf5_files.opened(tmp_path / "none")


def test_a_flipped_byte_is_found_before_hdf5_opens_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    with hdf5_files.new(path) as f:
        f["x"] = np.arange(100)
    whole = path.read_bytes()
    assert whole.startswith(b"cnncodes-sha256 ") and hdf5_files.states_digest(path)
    for opened in (hdf5_files.opened, h5py.File):
        with opened(path) as f:
            assert np.array_equal(f["x"][()], np.arange(100))
    monkeypatch.setattr(h5py, "File", lambda *a, **k: pytest.fail("HDF5 opened it"))
    for at in [0, 5, 20, 400, *range(512, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(OSError, match="do not match the digest"):
            hdf5_files.opened(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(OSError, match="do not match the digest"):
        hdf5_files.opened(path)


def test_a_file_is_checked_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    with hdf5_files.new(path) as f:
        f["x"] = np.arange(100)
    monkeypatch.setattr(disk, "_TICK_NS", 0)
    hdf5_files.opened(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(disk.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
        hdf5_files.opened(path).close()
    before = path.stat()
    time.sleep(0.05)  # more than a tick
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OSError, match="digest"):
        hdf5_files.opened(path)


def test_a_file_of_before_the_digest_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f["x"] = np.arange(3)
    with hdf5_files.opened(tmp_path / "x.h5") as f:
        assert f["x"][2] == 2
    assert not hdf5_files.states_digest(tmp_path / "x.h5")
