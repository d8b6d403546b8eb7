"""Files that were hashed when they were listed, decoded without being hashed once more.

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
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.data.colours import Pixels
from pipeline.data.decode import decode
from pipeline.data.listed import ChangedError
from pipeline.data.stamps import Stamp

if TYPE_CHECKING:
    from pipeline.data.memory import Facts, Memory


# Files that were found whole, until they are written together.
_AT_ONCE = 500


class _Known(NamedTuple):
    """What is remembered of a file."""

    path: str
    stamp: Stamp
    facts: Facts


class Originals:
    """The memory of files as those ask it that decode them, from any thread. Without a memory each file is hashed."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._whole: list[_Known] = []

    def decode(
        self,
        file: Path | bytes,
        opened: BinaryIO,
        sha256: str | None,
        *,
        background: tuple[int, int, int],
        max_pixels: int,
        reduced_to: int | None = None,
    ) -> Pixels:
        """The pixels of an open file, whose bytes are those that were listed; None: they were not.

        That none of them is missing is looked for once, and remembered. Raises ChangedError, DecodeError, and OSError.
        """
        data = opened.read()
        known = None if sha256 is None or isinstance(file, bytes) else self._known(file, opened)
        if known is not None and known.facts.sha256 != sha256:
            known = None
        if sha256 is not None and known is None and hashlib.sha256(data).hexdigest() != sha256:
            raise ChangedError("the file changed since the dataset was listed")
        is_whole = known is not None and known.facts.whole
        pixels = decode(
            data,
            background=background,
            max_pixels=max_pixels,
            reduced_to=reduced_to,
            known_whole=is_whole,
            name="" if isinstance(file, bytes) else file.name,
        )
        if known is not None and not is_whole:
            self._remember(known._replace(facts=known.facts._replace(whole=True)))
        return pixels

    def keep(self) -> None:
        """Writes what was found since the last time."""
        with self._lock:
            self._keep()

    def _keep(self) -> None:
        if self._memory is not None:
            self._memory.put(self._whole)
        self._whole.clear()

    def _known(self, file: Path, opened: BinaryIO) -> _Known | None:
        """What is remembered of an open file as it is now."""
        if self._memory is None:
            return None
        path, stamp = os.path.abspath(file), Stamp.of(os.fstat(opened.fileno()))
        with self._lock:
            facts = self._memory.get({path: stamp}).get(path)
        return None if facts is None else _Known(path, stamp, facts)

    def _remember(self, known: _Known) -> None:
        with self._lock:
            self._whole.append(known)
            if len(self._whole) >= _AT_ONCE:
                self._keep()


@contextlib.contextmanager
def remembered() -> Iterator[Originals]:
    """Originals with the memory in the cache folder, if there is one."""
    from pipeline.data.memory import Memory  # here, since not every process that lists files reads some

    memory = None
    if any(cache_root().glob("files*.sqlite")):  # the memory's own name where files have no locks is another
        with contextlib.suppress(UserError):
            memory = Memory(cache_root() / "files.sqlite")
    found = Originals(memory)
    try:
        yield found
    finally:
        found.keep()
        if memory is not None:
            memory.close()
