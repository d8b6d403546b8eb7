"""Files on the disk: a write that is whole or absent, digests, locks and room.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.base import held
from pipeline.base.counting import size
from pipeline.base.errors import UserError
from pipeline.base.failing import place, reading, told


def sha256(path: str | Path) -> str:
    """64 hex digits: sha256 of a file's bytes."""
    with reading(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success it is synced and renamed over `path`, on failure removed.

    The name keeps the suffix of `path`. What killed runs left of such names goes. Raises UserError if the disk is full
    or the folder can't be written.
    """
    path = Path(path)
    tmp: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left(path)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
        tmp = Path(name)
        # mkstemp makes files 0600; a result is as readable as any other file of the user's.
        os.fchmod(fd, 0o666 & ~_umask())
        os.close(fd)
        with held.held(tmp):
            yield tmp
            sync(tmp)
            tmp.replace(path)
        sync(path.parent)
    except Exception as e:  # libraries have classes of their own for what the system refuses
        raise_if_disk(e, path)
        raise
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def _clear_left(path: Path) -> None:
    """Removes what killed runs left of `path`; those that are killed while this process lives leave it to the next."""
    names = _temporaries(os.path.abspath(path.parent))
    held.remove_abandoned(path.parent / name for name in names if name.startswith(f".{path.name}."))


@functools.lru_cache(maxsize=1024)
def _temporaries(folder: str) -> tuple[str, ...]:
    """Temporary names in a folder when this process first writes there: to list it at each write would take too long
    where there are many files."""
    return tuple(path.name for path in Path(folder).glob(".*.????????.tmp*"))


def clear_leftovers(folder: Path, pattern: str) -> None:
    """Removes the temporary files that killed runs of `atomic_path` left beside names that match `pattern`.

    Only for a folder with one writer: another one's unfinished file would go as well.
    """
    for leftover in folder.glob(f".{pattern}.*.tmp*"):
        leftover.unlink(missing_ok=True)


def clear_abandoned(folder: Path, pattern: str) -> None:
    """As `clear_leftovers`, where there may be several writers: what a living one is at stays."""
    held.clear_abandoned(folder, f".{pattern}.????????.tmp*")


def raise_if_disk(error: Exception, path: str | Path) -> None:
    """Raises UserError if `error` is a refusal of the machine (`failing`) that has to do with `path`."""
    if not isinstance(error, UserError) and (mendable := told(error, path)) is not None:
        raise mendable from error


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="\n")


def small_text(path: str | Path) -> str:
    """The first lines of a file. Raises UserError if it is not a regular file."""
    state(path)
    with reading(path) as file:
        return file.read(_LINES_BYTES).decode("utf-8", "replace")


_LINES_BYTES = 4096


def is_settled(found: tuple[int, ...]) -> bool:
    """Whether a change of a file in this `state` would show in it: one within a tick of the last has the same times."""
    return not 0 <= time.time_ns() - found[-1] < _TICK_NS


# Of the clocks of file systems, with some to spare.
_TICK_NS = 100_000_000


def state(path: str | Path) -> tuple[int, int, int, int, int]:
    """What changes when a regular file does: device, number, size, times. Raises UserError if it is none."""
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a file", allowed="a regular file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def lacks_locks(error: OSError) -> bool:
    """Whether a lock was refused because the file system has none, as NFS and Lustre may, not because it is held."""
    return error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def has_locks(folder: Path) -> bool:
    """Whether files in `folder` can be locked, tried on one that nobody else has."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if lacks_locks(e):
                return False
            raise
    return True


_RESERVE_BYTES = 64 << 20


def require_space(folder: str | Path, need_bytes: int, *, what: str, less: str = "") -> None:
    """Raises UserError at once if `folder`'s disk has less than `need_bytes` and a reserve of 64 MiB free. `less`: what
    would need less.
    """
    probe = Path(folder).absolute()
    while not probe.exists():
        probe = probe.parent
    free_bytes = shutil.disk_usage(probe).free
    if free_bytes < need_bytes + _RESERVE_BYTES:
        needs = f"{size(need_bytes)}, and {size(_RESERVE_BYTES)} that stay free,"
        raise UserError(
            f"{what} needs {needs} in {folder}, where {size(free_bytes)} are free",
            allowed=f"{less}, or another disk" if less else "another disk, or more room on this one",
            see="`cnncodes cache size`",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with place(path):
            os.fsync(fd)
    finally:
        os.close(fd)
