"""A folder in the place of another: the old one or the new one, whole, whatever fails and whenever a kill comes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths as they are
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux' renameat2, RENAME_SWAP of macOS' renamex_np
# What file systems say that can't exchange names, NFS among them.
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def scratch(beside: Path | None = None) -> Iterator[Path]:
    """A folder of its own that goes at the end: in `beside`, else where the system keeps temporary files.

    That the disk refuses to remove it is nothing to end for; what it refuses once it is asked a second time.
    """
    made = Path(tempfile.mkdtemp(dir=beside))
    try:
        yield made
    finally:
        for _ in range(2):
            shutil.rmtree(made, ignore_errors=True)


def put(new: Path, folder: Path) -> None:
    """Gives the folder `new` the name of another beside it, whose files go if it is there.

    In one step where the system can exchange two names. Where it can't, what is there steps aside as `.NAME.old`
    first: `put_back` mends what a kill leaves then. Raises OSError, and nothing has changed.
    """
    if not folder.exists():
        new.rename(folder)
    elif _exchanged(new, folder):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = _aside(folder)
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Gives a folder its name again that a process killed within `put` left aside. Raises OSError."""
    old = _aside(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchanged(a: Path, b: Path) -> bool:
    """Whether two names now stand for one another's folders. Raises OSError where the system refused it."""
    names = os.fsencode(a), os.fsencode(b)
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, _EXCHANGE)
        else:
            failed = libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    except AttributeError:  # a C library without it
        return False
    number = ctypes.get_errno()
    if failed and number not in _UNABLE:
        raise OSError(number, os.strerror(number), str(a), None, str(b))
    return not failed
