"""One writer of an index at a time, on file systems without locks too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pipeline.base import disk
from pipeline.base.errors import UserError

_LOCK = ".lock"
_HELD = ".lock-held"
LOCKS = (_LOCK, _HELD)


@contextlib.contextmanager
def writing(folder: Path, *, make: bool) -> Iterator[None]:
    """Keeps other writers of `folder` out. `make` makes the folder.

    The system's lock ends with the process, however that ends. Where the file system has none, a file that only one
    process can make stands for it, and stays when its process is killed. Raises UserError if another has the lock.
    """
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise UserError(f"{folder} is not an index", allowed="a folder made by `cnncodes index`")
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as e:
        disk.raise_if_disk(e, folder)
        raise
    with os.fdopen(fd), contextlib.nullcontext() if _flock(fd, folder) else _held(folder):
        yield


def _flock(fd: int, folder: Path) -> bool:
    """Takes the system's lock; False if the file system has none."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder} is being changed by another process", allowed="try again when it is done") from None
    except OSError as e:
        if disk.lacks_locks(e):
            return False
        raise
    return True


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The lock of a file system without locks. Making a file that must not be there is atomic on all of them."""
    held = folder / _HELD
    try:
        fd = os.open(held, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise UserError(
            f"{folder} is being changed by {_holder(held)}, or was when that was killed: its file system has no locks",
            allowed=f"try again when it is done; if it no longer runs, remove {held}",
        ) from None
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        held.unlink(missing_ok=True)


def _holder(held: Path) -> str:
    """Who made the file, in words; it may be gone by now, or not written yet."""
    with contextlib.suppress(OSError):
        return held.read_text(encoding="utf-8", errors="replace") or "another process"
    return "another process"
