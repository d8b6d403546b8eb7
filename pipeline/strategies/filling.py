"""An array on disk that is filled from its first row on: killed, the next run goes on with it.

It lies beside its name until it is whole, with a small file that says how many rows are done.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.base import disk, json_files, stopping
from pipeline.base.errors import UserError
from pipeline.strategies import rows_file


class Filling:
    """`done` of the rows are there, in order; `notes`, plain values, go with them.

    Rows are what the first `axes` of `shape` count. Written and not mapped, as `rows_file` has it.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike, *, axes: int = 1) -> None:
        self.path, self._about = path, path.with_name(f"{path.name}.json")
        self.count, self._dtype = math.prod(shape[:axes]), np.dtype(dtype)
        self._row_bytes = math.prod(shape[axes:]) * self._dtype.itemsize
        head = BytesIO()
        rows_file.begin(head, dtype, shape)
        self._head = {"shape": list(shape), "dtype": self._dtype.str}
        self._start = len(head.getvalue())
        self.done, self.notes = self._found()
        self._file = path.open("r+b" if self.done else "w+b")
        if not self.done:
            self._file.write(head.getvalue())
        self._file.truncate(self._end)
        self._file.seek(self._end)
        self._timer = stopping.Timer()

    @property
    def _end(self) -> int:
        return self._start + self.done * self._row_bytes

    def _found(self) -> tuple[int, dict[str, Any]]:
        """What a run that was stopped left: rows that are done, and their notes."""
        try:
            found = json_files.read(self._about)
            whole = self.path.stat().st_size >= self._start + found["done"] * self._row_bytes
            if whole and found["head"] == self._head:
                return int(found["done"]), dict(found["notes"])
        except (UserError, OSError, KeyError, TypeError, ValueError):
            pass
        return 0, {}

    def append(self, rows: NDArray[Any]) -> None:
        """Writes the rows (n, ...) that come next."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data.cast("B"))
        self.done += len(rows)
        if self._timer.is_due():
            self.keep()

    def keep(self) -> None:
        """Rows before the file that counts them."""
        started_s = time.monotonic()
        self._sync()
        json_files.write(self._about, {"head": self._head, "done": self.done, "notes": self.notes})
        self._timer.written(time.monotonic() - started_s)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        for name in (self.path, self._about):
            name.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        """Gives the whole array its name."""
        self._sync()
        self.path.replace(path)
        disk.sync(path.parent)
        self._about.unlink(missing_ok=True)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def filling(path: Path, shape: tuple[int, ...], dtype: DTypeLike, *, what: str, axes: int = 1) -> Iterator[Filling]:
    """`what`: the rows, for the note of one that is stopped. While another run fills the same, this one has its own.

    Raises UserError if the disk is full or the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path.with_name(f".{path.name}.part")) as part:
            try:
                rows = Filling(part, shape, dtype, axes=axes)
            except OSError:
                part.unlink(missing_ok=True)
                raise
            try:
                with stopping.says(lambda: f"{rows.done} of {rows.count} {what} are kept; {stopping.GOES_ON}"):
                    yield rows
            except BaseException as e:
                # What fails is no use to the next run, and may be what fills the disk.
                if isinstance(e, KeyboardInterrupt) and rows.done:
                    rows.keep()
                else:
                    rows.remove()
                raise
            finally:
                rows.close()
    except OSError as e:
        disk.raise_if_disk(e, path)
        raise


@contextlib.contextmanager
def _held(path: Path) -> Iterator[Path]:
    """`path`, or a name of this process' own if a living process holds it; that one is removed at the end."""
    own = path.with_name(f"{path.name}-{os.getpid()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who held it may have given it its final name since.
        free = path.exists() and os.path.samestat(os.fstat(fd), path.stat())
    except BlockingIOError:
        free = False
    except OSError as e:
        if not disk.lacks_locks(e):
            raise
        free = False
    try:
        yield path if free else own
    finally:
        os.close(fd)
        for name in (own, own.with_name(f"{own.name}.json")):
            name.unlink(missing_ok=True)
