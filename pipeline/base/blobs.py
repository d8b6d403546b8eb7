"""Named bytes that are whole or absent: what a store needs of the place that holds it, and a folder as such a place.

A name is a path of `/`-separated parts, each of letters, digits, `_`, `-` and `.`, none of which begins with a point.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Protocol

from pipeline.base import disk
from pipeline.base.failing import reading

_NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*")
# What a file system says that has no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class Blobs(Protocol):
    """A place for bytes with names. All methods but `put` raise FileNotFoundError for a name that is not there, and all
    of them ValueError for what is not a name.

    A reader sees what a writer put as soon as `put` has returned, and never a part of it.
    """

    def names(self, prefix: str = "") -> list[str]:
        """Those that begin with `prefix`, sorted; what is still being written has no name."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes from `start` up to `stop`, or the end; fewer where there are fewer."""

    def put(self, name: str, data: bytes | memoryview, *, if_absent: bool = False) -> bool:
        """Writes all of `data`, in place of what has the name. False, and nothing is written, if `if_absent` and the
        name is there: of several that put it at once, one is told True.

        Raises UserError if the place is full or can't be written.
        """

    def size(self, name: str) -> int:
        """Bytes."""

    def remove(self, name: str) -> None:
        """Frees the name. Who reads the bytes at that moment may or may not get them."""

    def local(self, name: str) -> Path:
        """A file with these bytes, for libraries that read files. Nobody writes to it."""


class Folder:
    """A folder of this machine as Blobs. It is made with the first `put`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, prefix: str = "") -> list[str]:
        """As `Blobs.names`. Looks only below the last folder that `prefix` names."""
        above, _, _ = prefix.rpartition("/")
        found = []
        for folder, inner, files in os.walk(self.path / _checked(above) if above else self.path):
            inner[:] = [name for name in inner if not name.startswith(".")]
            below = os.path.relpath(folder, self.path)
            start = "" if below == "." else below.replace(os.sep, "/") + "/"
            found += [start + name for name in files if not name.startswith(".")]
        return sorted(name for name in found if name.startswith(prefix))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """As `Blobs.read`."""
        with reading(self.local(name)) as file:
            file.seek(start)
            return file.read(-1 if stop is None else max(0, stop - start))

    def put(self, name: str, data: bytes | memoryview, *, if_absent: bool = False) -> bool:
        """As `Blobs.put`. On a file system without hard links two that put a name at once may both be told True."""
        path = self.path / _checked(name)
        if not if_absent:
            with disk.atomic_path(path) as tmp:
                tmp.write_bytes(data)
            return True
        if path.exists():
            return False
        with contextlib.suppress(_ThereError), disk.atomic_path(path) as tmp:
            tmp.write_bytes(data)
            disk.sync(tmp)
            try:
                os.link(tmp, path)
            except FileExistsError:
                raise _ThereError from None
            except OSError as e:
                if e.errno not in _NO_LINKS:
                    raise
            # `atomic_path` renames over the link, which is the same file.
            return True
        return False

    def size(self, name: str) -> int:
        """As `Blobs.size`."""
        return self.local(name).stat().st_size

    def remove(self, name: str) -> None:
        """As `Blobs.remove`."""
        self.local(name).unlink()

    def local(self, name: str) -> Path:
        """As `Blobs.local`: the file itself."""
        return self.path / _checked(name)


class _ThereError(Exception):
    """Another one had the name first."""


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of bytes in a store")
    return name
