"""Image files that a list names with their sha256, as an index does.

Whoever wrote the list may have written any path into it. So a path has to stay below its folder, only a regular file is
opened, and what is shown or judged is the listed content alone. Links are followed, to anywhere: data tools keep files
in a store of their own, and no other file has the sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.stamps import Stamp


class ListedError(Exception):
    """There is no such file, or it isn't what was listed; `str()` says which in words, without the path."""


class ChangedError(ListedError):
    """There is something else at the path."""


def stays_below(path: str) -> bool:
    """Whether a path as a list has it leads to a place below its folder, links aside."""
    return not (path.startswith("/") or "\0" in path or path in ("", ".") or ".." in path.split("/"))


def read(path: Path, sha256: str) -> bytes:
    """The bytes of a file, if they are those that were listed. Raises ListedError."""
    with _matching(path, sha256) as (file, stamp):
        file.seek(0)
        data = file.read()
        same = stamp is not None and Stamp.of(os.fstat(file.fileno())) == stamp
    if not same and hashlib.sha256(data).hexdigest() != sha256:
        raise ChangedError("the file changed since it was indexed")
    return data


def require(path: Path, sha256: str) -> None:
    """Raises ListedError unless a file is the one that was listed."""
    with _matching(path, sha256):
        pass


@contextlib.contextmanager
def _matching(path: Path, sha256: str) -> Iterator[tuple[io.BufferedReader, Stamp | None]]:
    """A regular file whose content was seen to have the sha256, in pieces: it may be larger than the memory.

    Its stamp before that, if a change since then must show in it.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)  # a device must not even be opened
        if regular:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # what came in its place may be a pipe
            with os.fdopen(fd, "rb") as file:
                status, now_ns = os.fstat(fd), time.time_ns()
                regular, stamp = stat.S_ISREG(status.st_mode), Stamp.of(status)
                if regular and hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    yield file, stamp if stamp.is_settled(now_ns) else None
                    return
    except OSError as e:
        what = "is gone" if isinstance(e, FileNotFoundError | NotADirectoryError) else "can't be read"
        raise ListedError(f"the file {what} ({(e.strerror or str(e)).lower()})") from None
    raise ChangedError("the file changed since it was indexed")
