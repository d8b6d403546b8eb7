"""What is known of files that were read before: a small SQLite file in the cache folder.

A file is the same while its path, size and times are. Times include ctime, since a copy may bring an old mtime along.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.base import disk, stopping
from pipeline.base.errors import UserError
from pipeline.data.stamps import Stamp

log = logging.getLogger(__name__)

# The layout of the table, and what the decoder takes as whole; another one is thrown away, as all in it can be had
# again.
_VERSION = 3
# Before it every file in the table had been decoded.
_ALL_WHOLE = 2
_TABLE = """CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 TEXT, width INTEGER, height INTEGER,
    decoder INTEGER, dark INTEGER, whole INTEGER
) WITHOUT ROWID"""
_GET = (
    "SELECT path, size, mtime_ns, ctime_ns, sha256, width, height, decoder, dark, whole FROM files WHERE path IN ({})"
)
_AT_ONCE = 500  # SQLite's least limit of variables is 999
_PUT = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_MOVE = "UPDATE OR REPLACE files SET path = ? || substr(path, ?) WHERE path > ? AND path < ?"


class Facts(NamedTuple):
    """What is remembered of an image. `width` and `height` in pixels as shown (after EXIF rotation); `decoder` and
    `dark` as in `decode.Seen`; `whole`: it was decoded, and no pixel is missing.
    """

    sha256: str
    width: int
    height: int
    decoder: int = 1
    dark: bool = False
    whole: bool = False


class Memory:
    """Absolute path -> facts, for as long as the stamp is the same. Several processes may use one file at once.

    It only spares reading: where it can't be used, a warning says so once and every file is read.

    On a file system without locks, such as NFS or Lustre may be, SQLite can't share a file. There a process works on a
    copy in memory, and puts it in the place of the file (another one, so that processes with locks never meet
    it); of two runs at once the later one's stays.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError if the folder can't be made. A file that is damaged or of another version starts empty."""
        self._path = path
        self._in_memory = False
        self._saved_changes = 0
        self._timer = stopping.Timer()
        self._db: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(
                f"the cache folder {path.parent} can't be used ({e.strerror or e})",
                allowed="CNNCODES_CACHE with a folder that you can write",
            ) from e
        try:
            self._in_memory = not disk.has_locks(path.parent)
            if self._in_memory:
                self._path = path.with_name(f"{path.stem}-nolocks{path.suffix}")
            self._db = self._opened()
        except (OSError, sqlite3.Error) as e:
            self._give_up(e)

    def get(self, stamps: Mapping[str, Stamp]) -> dict[str, Facts]:
        """The facts of those files, absolute path -> stamp, that are remembered and the same."""
        known, paths = {}, list(stamps)
        if self._db is None:
            return {}
        try:
            for start in range(0, len(paths), _AT_ONCE):
                some = paths[start : start + _AT_ONCE]
                for path, *row in self._db.execute(_GET.format(",".join("?" * len(some))), some):
                    if stamps[path] == tuple(row[:3]):
                        sha256, width, height, decoder, dark, whole = row[3:]
                        known[path] = Facts(sha256, width, height, decoder, bool(dark), bool(whole))
        except sqlite3.Error as e:
            self._give_up(e)
        return known

    def put(self, rows: Iterable[tuple[str, Stamp, Facts]]) -> None:
        """All rows in one transaction."""
        if self._db is None:
            return
        try:
            with self._db:
                self._db.executemany(_PUT, ((path, *stamp, *facts) for path, stamp, facts in rows))
        except sqlite3.Error as e:
            self._give_up(e)

    def move(self, folder: str, to: str) -> None:
        """What is known of the files in a folder that was renamed, which changes no times of theirs."""
        if self._db is None:
            return
        try:
            with self._db:
                # All paths that begin with the folder and a slash: the character after that is "0".
                self._db.execute(_MOVE, (to, len(folder) + 1, f"{folder}/", f"{folder}0"))
        except sqlite3.Error as e:
            self._give_up(e)

    @contextlib.contextmanager
    def putting(self) -> Iterator[Callable[[str, Stamp, Facts], None]]:
        """Yields a function that takes one file's facts. What it was given is in the file within half a minute, and at
        the end, however that comes.
        """
        waiting: list[tuple[str, Stamp, Facts]] = []

        def write() -> None:
            self.put(waiting)
            waiting.clear()

        def put(path: str, stamp: Stamp, facts: Facts) -> None:
            waiting.append((path, stamp, facts))
            if self._timer.is_due():
                started_s = time.monotonic()
                write()
                self._save_copy()
                self._timer.written(time.monotonic() - started_s)

        try:
            yield put
        finally:
            write()

    def close(self) -> None:
        self._save_copy()
        if self._db is not None:
            self._db.close()

    def _save_copy(self) -> None:
        """The copy in memory, if it is one, into the place of the file."""
        if self._db is None or not self._in_memory or self._db.total_changes == self._saved_changes:
            return
        try:
            with disk.atomic_path(self._path) as tmp:
                tmp.write_bytes(self._db.serialize())
            self._saved_changes = self._db.total_changes
        except (OSError, UserError) as e:
            self._give_up(e)

    def _opened(self) -> sqlite3.Connection:
        """The file's table; a file that is no such database is thrown away."""
        try:
            return self._connected()
        except sqlite3.DatabaseError as e:
            if isinstance(e, sqlite3.OperationalError):
                raise
            self._path.unlink()
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        # Any thread, one at a time: `originals` sees to it.
        db = sqlite3.connect(":memory:" if self._in_memory else self._path, timeout=60, check_same_thread=False)
        try:
            if self._in_memory and self._path.exists():
                db.deserialize(self._path.read_bytes())
            # No sync at each commit: what a power cut loses is read again.
            db.execute("PRAGMA synchronous = OFF")
            db.execute("BEGIN IMMEDIATE")  # of two processes one adds the column
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == _ALL_WHOLE:
                db.execute("ALTER TABLE files ADD COLUMN whole INTEGER DEFAULT 1")
            elif version not in (0, _VERSION):
                db.execute("DROP TABLE IF EXISTS files")
            db.execute(_TABLE)
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.commit()
        except (OSError, sqlite3.Error):
            db.close()
            raise
        return db

    def _give_up(self, error: Exception) -> None:
        log.warning("the memory of hashed files, %s, can't be used (%s): every file is read", self._path, error)
        if self._db is not None:
            self._db.close()
            self._db = None
