"""A written HDF5 file is whole, or leaving it is an error: whatever HDF5 itself keeps silent about."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.base import hdf5_files
from pipeline.base.errors import UserError
from pipeline.base.written_hdf5 import WrittenHdf5, _Disk


def fill(path: Path) -> None:
    with WrittenHdf5(path, userblock_size=512) as f:
        f.attrs["kind"] = "test"
        f.create_group("columns").create_dataset("ids", data=np.arange(1000))
        f.create_dataset("codes", data=np.eye(50), chunks=(10, 50))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    fill(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", locking=False) as f:
        assert f.attrs["kind"] == "test"
        assert f["columns/ids"][:].tolist() == list(range(1000))
        assert (f["codes"][:] == np.eye(50)).all()


def test_each_write_that_fails_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that HDF5 makes while it closes too, of which it only prints."""
    calls = 0
    write = _Disk.write

    def count(self: _Disk, data: bytes) -> int:
        nonlocal calls
        calls += 1
        return write(self, data)

    monkeypatch.setattr(_Disk, "write", count)
    fill(tmp_path / "whole.h5")
    assert calls > 5

    class Full:
        """A file whose nth write fails, as do those after it."""

        def __init__(self, file: object, nth: int) -> None:
            self.file, self.left = file, nth

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            self.left -= 1
            if self.left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(data))  # type: ignore[attr-defined]

    start = _Disk.__init__
    for nth in range(1, calls + 1):

        def full(self: _Disk, path: Path, nth: int = nth) -> None:
            start(self, path)
            self._file = Full(self._file, nth)  # type: ignore[assignment]

        monkeypatch.setattr(_Disk, "__init__", full)
        with pytest.raises(OSError, match="No space left"):
            fill(tmp_path / "a.h5")
    monkeypatch.setattr(_Disk, "__init__", lambda self, path: full(self, path, 3))
    with pytest.raises(UserError, match=r"no space left .*kept\.h5"), hdf5_files.new(tmp_path / "kept.h5") as f:
        f["x"] = np.arange(1000)
    assert not (tmp_path / "kept.h5").exists()


def test_an_error_of_the_writer_stays_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), WrittenHdf5(tmp_path / "a.h5"):
        raise ValueError("mine")
