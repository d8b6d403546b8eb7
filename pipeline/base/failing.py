"""What the machine refuses (a full disk, a missing right, no memory), said as a UserError. The one place for it.

`told` looks at the error alone, whoever raised it: Python, or a library that hides the system's number in a text.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from pipeline.base.errors import RefusedError, UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
# As HDF5, Rust's libraries, Python and torch write it.
_NUMBER = re.compile(r"errno = (\d+)|os error (\d+)|\[Errno (\d+)\]|unable to open file <.*\((\d+)\)$")
_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
}
# HDF5, safetensors and torch name the file in their text, Python none where reading or writing an open file fails.
_NAMED = re.compile(r"name = '([^']+)'|No such file or directory: (.+)|unable to open file <(.+)> in")
# As `disk.atomic_path`, new data sets and indexes, and an index's next generation have.
_TEMPORARY = re.compile(r"\.(?P<of>.+?)(\.[a-z0-9_]{8})?\.(tmp(\.\w+)?|partial)|\.gen-\d+|\.tmp\w{6}")
_MARK = "_cnncodes_place"
_MEMORY = re.compile(
    r"(can't|cannot) allocate memory|not enough memory|out of memory|std::bad_alloc|failed to map segment",
    re.IGNORECASE,
)


@contextmanager
def place(path: str | Path) -> Iterator[None]:
    """Has an error that passes and names no file be told as one of `path`; whoever handles it gets it unchanged."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, _MARK):
            setattr(error, _MARK, str(path))
        raise


@contextmanager
def reading(path: str | Path) -> Iterator[BufferedReader]:
    """A file that is open for reading its bytes. A read that fails names no file; it is told as one of `path`."""
    with place(path), Path(path).open("rb") as file:
        yield file


def told(error: BaseException, path: str | Path | None = None) -> UserError | None:
    """What the user can mend about `error`, or None if it is none of the machine's refusals.

    `path`: what was read or written, where the error names no file.
    """
    if isinstance(error, UserError):
        return error
    if _is_memory(error):
        return RefusedError(
            f"there is not enough memory ({_first_line(error)})" if str(error) else "there is not enough memory",
            allowed="fewer images at once: codes.compute.memory_mb or --memory-mb, and batch_size",
        )
    number = error_number(error)
    if number is None:
        return None
    return refusal(number, _place(error, path))


def error_number(error: BaseException) -> int | None:
    """The system's number of an error (errno), also where a library hides it in its text; None if there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, FileNotFoundError):  # Rust's libraries give it without a number, whatever the reason
        return errno.ENOENT
    if isinstance(error, sqlite3.Error):
        return _SQLITE.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
    # HDF5's errors are OSError and RuntimeError, of a place that is full too, which old versions tell in words alone.
    text = str(error)
    found = _NUMBER.search(text)
    if found:
        return int(next(filter(None, found.groups())))
    return errno.ENOSPC if "No space left" in text else None


def refusal(number: int, path: str | Path = "") -> RefusedError:
    """The sentence for one of the system's numbers about `path`, which may be ''."""
    if number in _FULL:
        what = "no space left on the device" if number == errno.ENOSPC else "the disk quota is used up"
        return RefusedError(f"{what} while writing{_of(path)}", see="`cnncodes cache size`")
    if number in _DENIED:
        return _denied(number, Path(path)) if str(path) else RefusedError("no permission")
    if number == errno.EIO:
        return RefusedError(f"the device failed while{_of(path) or ' a file'} was read or written (input/output error)")
    if number == errno.ENOENT and str(path):
        found = Path(path)
        return _denied(errno.EACCES, found) if _exists(found) else RefusedError(f"{path} does not exist")
    said = os.strerror(number).lower()
    return RefusedError(f"can't read or write {path}: {said}" if str(path) else said)


def _place(error: BaseException, path: str | Path | None) -> str:
    """The file that the error names, else `path`; where that has a temporary name, what is made there."""
    # Of two names the second is that of what is made.
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not isinstance(named, (str, bytes, os.PathLike)):
        said = _NAMED.search(str(error))
        named = next(filter(None, said.groups())) if said else getattr(error, _MARK, None)
    return _lasting(str(path or "") if named is None else os.fsdecode(named))


def _lasting(path: str) -> str:
    """A path without what is gone when the user looks: temporary names and all that is in such folders."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if found := _TEMPORARY.fullmatch(part):
            return "/".join([*parts[:i], *filter(None, [found["of"]])]) or "."
    return path


def _denied(number: int, path: Path) -> RefusedError:
    """Names the right that is missing, and where: of the file, or of the nearest folder that exists."""
    if number == errno.EROFS:
        return RefusedError(f"no permission to write {path}: it is on a read-only file system")
    if _exists(path) and not os.access(path, os.R_OK):
        return RefusedError(f"no permission to read {path}", allowed="a right to read it (chmod +r)")
    folder = path.parent
    while not _exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.X_OK):
        return RefusedError(
            f"no permission to enter {folder}, on the way to {path}", allowed="a right to enter (chmod +x)"
        )
    target = path if path.is_dir() else folder
    if os.access(target, os.W_OK) and (target == path or not _exists(path) or os.access(path, os.W_OK)):
        return RefusedError(
            f"no permission for {path}, though its mode allows it: an attribute, or the server's own rules"
        )
    within = "" if target == path else f" in {target.absolute()}"
    return RefusedError(f"no permission to write {path}{within}", allowed="a right to write there")


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def _is_memory(error: BaseException) -> bool:
    # torch's own class is a RuntimeError, and on a CPU it raises just that; torch is not to be imported for it. Nor may
    # there be room for the library itself.
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError, OSError))
        and (type(error).__name__ == "OutOfMemoryError" or _MEMORY.search(str(error)) is not None)
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]


def _of(path: str | Path) -> str:
    return f" {path}" if str(path) else ""
