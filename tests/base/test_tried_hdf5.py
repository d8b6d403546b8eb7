"""A stranger's HDF5 file that would keep the library busy, or have it take all memory, is refused in a sentence."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.base import disk, hdf5_files, tried_hdf5
from pipeline.base.errors import UserError

HEAP_HEADER = 16  # bytes of "GCOL", a version, the collection's size
TEXT = "a label that is looked for"


def made(path: Path, fill: Callable[[h5py.File], object] | None = None) -> bytes:
    with h5py.File(path, "w") as f:
        f["labels"] = [TEXT, "cat"] if fill is None else np.arange(2)
        if fill is not None:
            fill(f)
    return path.read_bytes()


def put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def no_bytes(data: bytes) -> bytes:
    """The first object of the heap is a place that is free and has no bytes, so that the next one is itself."""
    at = data.index(b"GCOL") + HEAP_HEADER
    return put(data, at, bytes(16))


def wraps(data: bytes) -> bytes:
    """Its size and that of its header come to 2 to the 64th."""
    return put(data, data.index(b"GCOL") + HEAP_HEADER + 8, (2**64 - 16).to_bytes(8, "little"))


def four_gb(data: bytes) -> bytes:
    """A text is said to have 4 GB."""
    address = data.index(b"GCOL").to_bytes(8, "little")
    return put(data, data.index(len(TEXT).to_bytes(4, "little") + address), b"\xff" * 4)


def classes(f: h5py.File) -> None:
    f["labels"].attrs["classes"] = [TEXT, "cat"]


LOOPS = {"an object of no bytes": no_bytes, "a size that wraps": wraps}


@pytest.mark.parametrize("fill", [None, classes], ids=["labels", "attribute"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_heap_that_has_no_end(name: str, fill: Callable[[h5py.File], object] | None, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    data = LOOPS[name](made(path, fill))
    path.write_bytes(data)
    said = r"keeps the HDF5 library at work for more than 2 s; allowed: what a sound file of its length takes"
    with pytest.raises(UserError, match=f"x.h5 {said}"):
        hdf5_files.opened(path, theirs=True)
    if fill is not None:
        return
    with pytest.raises(UserError, match=f"an archive {said}"):
        hdf5_files.opened(BytesIO(data), theirs=True, where="an archive")


@pytest.mark.parametrize("fill", [None, classes], ids=["labels", "attribute"])
def test_a_text_that_is_said_to_have_4_gb(fill: Callable[[h5py.File], object] | None, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(four_gb(made(path, fill)))
    with pytest.raises(OSError, match="memory allocation failed"):
        hdf5_files.opened(path, theirs=True)


def test_many_texts_that_are_all_the_same_long_one(tmp_path: Path) -> None:
    """A thousand references to one text of a megabyte: each becomes a text of its own."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as f:
        f["labels"] = np.array(["x" * (1 << 20)] + ["y"] * 999, dtype=h5py.string_dtype())
        place = f["labels"].id.get_offset()
    data = path.read_bytes()
    path.write_bytes(put(data, place, data[place : place + 16] * 1000))
    with pytest.raises((UserError, OSError), match=r"asks the HDF5 library for more than|memory allocation failed"):
        hdf5_files.opened(path, theirs=True)


def test_a_library_that_breaks_down_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "x.h5")
    (tmp_path / "dies").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "dies").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "dies"))
    with pytest.raises(OSError, match=r"the HDF5 library breaks down on it \(SIGSEGV\)"):
        hdf5_files.opened(tmp_path / "x.h5", theirs=True)


def test_sound_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as f:
        f["labels"] = np.array([f"label {i}" for i in range(50_000)], dtype=h5py.string_dtype())
        f.create_dataset("packed", data=f["labels"][:5000], dtype=h5py.string_dtype(), compression=9, chunks=(100,))
        f["one"], f["none"] = "a text", h5py.Empty(h5py.string_dtype())
        f["labels"].attrs["classes"] = ["a", "b"]
        f["labels"].make_scale("x")  # attributes with references
        f["packed"].dims[0].attach_scale(f["labels"])
    with hdf5_files.opened(path, theirs=True) as f:
        assert f["labels"].asstr()[-1] == "label 49999" and f["packed"].asstr()[7] == "label 7"
    with hdf5_files.opened(BytesIO(path.read_bytes()), theirs=True) as f:
        assert f["one"].asstr()[()] == "a text"


def test_a_file_is_tried_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    made(path)
    os.utime(path, (1, 1))
    time.sleep(disk._TICK_NS / 1e9)
    hdf5_files.opened(path, theirs=True).close()
    with monkeypatch.context() as patch:
        patch.setattr(tried_hdf5.subprocess, "run", lambda *a, **k: pytest.fail("tried again"))
        hdf5_files.opened(path, theirs=True).close()
    path.write_bytes(four_gb(path.read_bytes()))
    with pytest.raises(OSError):
        hdf5_files.opened(path, theirs=True)


def test_modules_of_the_folder_one_is_in_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "x.h5")
    (tmp_path / "h5py.py").write_text("open('pwned', 'w')")
    monkeypatch.chdir(tmp_path)
    hdf5_files.opened("x.h5", theirs=True).close()
    assert not (tmp_path / "pwned").exists()
