"""Temporary files and folders: whoever works on one holds it, so that what killed runs left can be told and removed.

The system lets go of a lock when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

# Between being made and being held; clocks of file servers may differ by more, and then age alone decides.
_JUST_MADE_S = 1.0
# Where a file system has no locks.
_ABANDONED_S = 24 * 3600
_OLD_S = 3600
_PARTIAL = ".partial"


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a file or folder of this process' own. Where there are no locks its age stands for them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder beside `out` to make it in, which goes away at the end; those that killed runs left go now."""
    out.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(out.parent, f".{glob.escape(out.name)}.*{_PARTIAL}")
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_PARTIAL, dir=out.parent))
    try:
        with held(made):
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def clear_abandoned(folder: Path, pattern: str) -> None:
    """Removes files and folders in `folder`, of names that match `pattern`, that no living process holds."""
    remove_abandoned(folder.glob(pattern))


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Those of the files and folders that no living process holds."""
    for leftover in paths:
        # Another run may clear it as well, or it may be another user's.
        with contextlib.suppress(OSError):
            if _is_abandoned(leftover):
                _remove(leftover)


def clear_old(folder: Path, pattern: str) -> None:
    """Removes files that match `pattern` and were not written to for an hour: of libraries, which hold none."""
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _OLD_S:
                leftover.unlink()


def _is_abandoned(path: Path) -> bool:
    status = path.lstat()
    age_s = time.time() - max(status.st_mtime, status.st_ctime)
    if age_s < _JUST_MADE_S:
        return False
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age_s > _ABANDONED_S
    finally:
        os.close(fd)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
