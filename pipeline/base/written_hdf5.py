"""An HDF5 file that is written: what the disk refuses is an error, always, and never one inside the HDF5 library.

HDF5 keeps much of a file in memory until it is closed. Where the disk refuses it then, h5py prints that, goes on as if
the file were whole, and may crash when the process ends. So Python writes the bytes here: the first refusal is kept,
HDF5 goes on with its work undisturbed, and closing the file raises it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from pipeline.base.failing import place


class WrittenHdf5(h5py.File):  # type: ignore[misc]  # h5py has no types
    """A new file for `with`. Leaving it raises OSError if any of its bytes could not be written."""

    def __init__(self, path: str | Path, **settings: Any) -> None:
        self._disk = _Disk(path)
        self._to = path
        super().__init__(self._disk, "w", **settings)

    def close(self) -> None:
        """Raises the disk's first refusal."""
        try:
            if self.id:
                super().close()
        finally:
            refused = self._disk.refused
            with place(self._to):
                self._disk.close()
                if refused is not None:
                    raise refused


class _Disk:
    """A file as h5py's driver for Python's files wants it, which keeps its first error to itself."""

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("w+b", buffering=0)  # noqa: SIM115  `close` ends it
        self.refused: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.refused is None and done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as e:
            self.refused = e
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as e:
            self.refused = self.refused or e
            return size or 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._file.close()
