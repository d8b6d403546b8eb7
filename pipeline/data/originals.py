"""Files that were hashed when they were listed, read without being hashed once more.

Bytes that are used must be those that were hashed. The times of a file say so as well as a second digest does: whatever
is written after the first one shows in its ctime, which no program sets (`stamps`). They are asked for after the bytes
were read, of the open file and not of its name. A file with other times, or one that this machine's memory of files
doesn't know, is hashed. Inode numbers would add nothing: whatever takes a file's place has a ctime of its own, and some
network file systems number their files otherwise after each mount.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.data.listed import ChangedError
from pipeline.data.stamps import Stamp

if TYPE_CHECKING:
    from pipeline.data.memory import Facts, Memory


class Originals:
    """The memory of files as those ask it that read them, from any thread. Without a memory each file is hashed."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory
        self._lock = threading.Lock()

    def read(self, file: Path | bytes, opened: BinaryIO, sha256: str) -> bytes:
        """All bytes of an open file, which are those that were listed. Raises ChangedError, and OSError."""
        data = opened.read()
        known = self._facts(file, opened) if isinstance(file, Path) else None
        if (known is None or known.sha256 != sha256) and hashlib.sha256(data).hexdigest() != sha256:
            raise ChangedError("the file changed since the dataset was listed")
        return data

    def _facts(self, file: Path, opened: BinaryIO) -> Facts | None:
        """What is remembered of an open file as it is now."""
        if self._memory is None:
            return None
        path, stamp = os.path.abspath(file), Stamp.of(os.fstat(opened.fileno()))
        with self._lock:
            return self._memory.get({path: stamp}).get(path)


@contextlib.contextmanager
def remembered() -> Iterator[Originals]:
    """Originals with the memory in the cache folder, if there is one."""
    from pipeline.data.memory import Memory  # here, since not every process that lists files reads some

    memory = None
    if any(cache_root().glob("files*.sqlite")):  # the memory's own name where files have no locks is another
        with contextlib.suppress(UserError):
            memory = Memory(cache_root() / "files.sqlite")
    try:
        yield Originals(memory)
    finally:
        if memory is not None:
            memory.close()
