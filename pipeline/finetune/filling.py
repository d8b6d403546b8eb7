"""An array on disk that is filled from its first row on: killed, the next run goes on with it.

It lies beside its name until it is whole, with a small file that says how many rows are done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline import schema, stopping
from pipeline.errors import UserError


class Filling:
    """`rows` are mapped into memory, the first `done` of them filled; `notes`, plain values, go with these."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path, self._about = path, path.with_name(f"{path.name}.json")
        self.done, self.notes = 0, dict[str, Any]()
        expected = {"shape": list(shape), "dtype": np.dtype(dtype).str}
        self._head, found = expected, self._found()
        mode = "w+"
        if found is not None and found["head"] == expected:
            self.done, self.notes, mode = found["done"], found["notes"], "r+"
        self.rows: NDArray[Any] = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        self._timer = stopping.Timer()

    def _found(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = schema.read_json(self._about)
            return found if self.path.stat().st_size > found["bytes"] else None
        except (UserError, OSError, KeyError, TypeError):
            return None

    def advance(self, done: int) -> None:
        """So many rows are filled."""
        self.done = done
        if self._timer.is_due():
            self.keep()

    def keep(self) -> None:
        """Rows before the file that counts them."""
        started_s = time.monotonic()
        self.rows.flush()  # type: ignore[attr-defined]
        about = {"head": self._head, "bytes": self.rows.nbytes, "done": self.done, "notes": self.notes}
        schema.write_json(self._about, about)
        self._timer.written(time.monotonic() - started_s)

    def remove(self) -> None:
        for name in (self.path, self._about):
            name.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        """Gives the whole array its name."""
        self.rows.flush()  # type: ignore[attr-defined]
        schema.sync(self.path)
        self.path.replace(path)
        schema.sync(path.parent)
        self._about.unlink(missing_ok=True)


@contextlib.contextmanager
def filling(path: Path, shape: tuple[int, ...], dtype: DTypeLike, *, what: str) -> Iterator[Filling]:
    """`what`: the rows, for the note of one that is stopped. While another run fills the same, this one has its own.

    Raises UserError if the disk is full or the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path.with_name(f".{path.name}.part")) as part:
            rows = Filling(part, shape, dtype)
            try:
                with stopping.says(lambda: f"{rows.done} of {shape[0]} {what} are kept; {stopping.GOES_ON}"):
                    yield rows
            except BaseException as e:
                # What fails is no use to the next run, and may be what fills the disk.
                if isinstance(e, KeyboardInterrupt) and rows.done:
                    rows.keep()
                else:
                    rows.remove()
                raise
    except OSError as e:
        schema.raise_if_disk(e, path)
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
        if not schema.lacks_locks(e):
            raise
        free = False
    try:
        yield path if free else own
    finally:
        os.close(fd)
        for name in (own, own.with_name(f"{own.name}.json")):
            name.unlink(missing_ok=True)
