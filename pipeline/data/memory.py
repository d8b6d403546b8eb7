"""What is known of files that were read before: a small SQLite file in the cache folder.

A file is the same while its path, size and times are. Times include ctime, since a copy may bring an old mtime along.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from pipeline.errors import UserError

# The layout of the table, and what the decoder takes as whole; another one is thrown away, as all in it can be had again.
_VERSION = 2
_TABLE = """CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 TEXT, width INTEGER, height INTEGER,
    decoder INTEGER, dark INTEGER
) WITHOUT ROWID"""
_GET = "SELECT path, size, mtime_ns, ctime_ns, sha256, width, height, decoder, dark FROM files WHERE path IN ({})"
_AT_ONCE = 500  # SQLite's least limit of variables is 999
_PUT = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

# A file changed this shortly before it is read could change again within one tick of its time stamps.
TICK_NS = 50_000_000


class Facts(NamedTuple):
    """Of a file that decodes. `width` and `height` in pixels as shown (after EXIF rotation); `decoder` and `dark` as in
    `decode.Seen`.
    """

    sha256: str
    width: int
    height: int
    decoder: int = 1
    dark: bool = False


class Stamp(NamedTuple):
    """`size` in bytes, times in nanoseconds since 1970."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now_ns: int) -> bool:
        """Whether a change after `now_ns` must show in the times."""
        return now_ns - max(self.mtime_ns, self.ctime_ns) > TICK_NS


class Memory:
    """Absolute path -> facts, for as long as the stamp is the same. Several processes may use one file at once."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if the file can't be made. One that is damaged or of another version is made anew."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as e:
                if isinstance(e, sqlite3.OperationalError):
                    raise
                path.unlink()
                self._db = self._open()
        except (OSError, sqlite3.Error) as e:
            raise self._error(e) from e

    def get(self, stamps: Mapping[str, Stamp]) -> dict[str, Facts]:
        """The facts of those files, absolute path -> stamp, that are remembered and the same."""
        known, paths = {}, list(stamps)
        try:
            for start in range(0, len(paths), _AT_ONCE):
                some = paths[start : start + _AT_ONCE]
                for path, *row in self._db.execute(_GET.format(",".join("?" * len(some))), some):
                    if stamps[path] == tuple(row[:3]):
                        *facts, dark = row[3:]
                        known[path] = Facts(*facts, bool(dark))
        except sqlite3.Error as e:
            raise self._error(e) from e
        return known

    def put(self, rows: Iterable[tuple[str, Stamp, Facts]]) -> None:
        """All rows in one transaction. Raises UserError if they can't be written."""
        try:
            with self._db:
                self._db.executemany(_PUT, ((path, *stamp, *facts) for path, stamp, facts in rows))
        except sqlite3.Error as e:
            raise self._error(e) from e

    def close(self) -> None:
        self._db.close()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=60)
        try:
            # No sync at each commit: what a power cut loses is read again.
            db.execute("PRAGMA synchronous = OFF")
            if db.execute("PRAGMA user_version").fetchone()[0] not in (0, _VERSION):
                db.execute("DROP TABLE IF EXISTS files")
            db.execute(_TABLE)
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.commit()
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _error(self, error: Exception) -> UserError:
        return UserError(
            f"the memory of hashed files, {self._path}, can't be used ({error})",
            allowed="a cache folder that you can write, with space left",
            see="`cnncodes cache size`",
        )
