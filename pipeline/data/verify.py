"""The check of every file: that it is an image and ends where it should, its sha256 and its size.

A file is read once for both, and none that is remembered. Its pixels are looked at where they are first needed; see
`decode.inspect`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipeline.base import stopping
from pipeline.base.cache import cache_root
from pipeline.data import cost, kinds, made_here
from pipeline.data.decode import DecodeError, inspect
from pipeline.data.links import NOT_FOLLOWED, Links, NotFollowedError
from pipeline.data.manifest import Failure, printable
from pipeline.data.memory import Facts, Memory
from pipeline.data.room import NoRoomError, Room
from pipeline.data.stamps import Stamp

log = logging.getLogger(__name__)

# Files looked up and read together: bounds memory.
_BATCH = 2048
_LOG_EVERY_S = 15.0
_SHOWN = 3  # paths in a warning


class _Checked(NamedTuple):
    result: Facts | Failure
    stamp: Stamp | None  # to remember the facts by; None if they must not be


def verify(
    root: str | Path, paths: Sequence[str], *, max_pixels: int, room: Room, links: Links | None = None
) -> Generator[Facts | Failure]:
    """For each path below `root`, in order: its facts, or why it is left out.

    Files are read on all cores, as many at once as `room` holds. `links`: those that may be followed, all if None.
    Raises UserError if the cache folder can't be made.
    """
    memory = Memory(cache_root() / "files.sqlite")
    folder = os.path.abspath(root)  # strings: a million Path objects cost seconds
    links = links or Links(folder, follow=True)
    known, read, logged_s = 0, 0, time.monotonic()
    dark: list[str] = []

    def kept() -> str:
        return f"{known + read} of {len(paths)} files are checked; {stopping.GOES_ON}"

    with stopping.says(kept), ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for start in range(0, len(paths), _BATCH):
                batch = paths[start : start + _BATCH]
                found = _recall(memory, folder, batch, max_pixels, room)
                unknown = [path for path in batch if path not in found]
                known += len(batch) - len(unknown)
                checks = pool.map(lambda path: _check(links, path, max_pixels, room), unknown)
                with memory.putting() as put:
                    for path, (result, stamp) in zip(unknown, checks, strict=True):
                        found[path] = result
                        if stamp is not None and isinstance(result, Facts):
                            put(f"{folder}/{path}", stamp, result)
                        read += 1
                if time.monotonic() - logged_s > _LOG_EVERY_S:
                    logged_s = time.monotonic()
                    log.info("checked %d of %d files", start + len(batch), len(paths))
                for path in batch:
                    facts = found[path]
                    if isinstance(facts, Facts) and facts.dark:
                        dark.append(path)
                    yield facts
        finally:
            memory.close()
            pool.shutdown(cancel_futures=True)
    log.info("checked %d files, %d of them by reading", len(paths), read)
    _warn_of_dark(dark)


def _warn_of_dark(paths: Sequence[str]) -> None:
    if paths:
        shown = ", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
        log.warning(
            "%d file(s) of 16 bits use the lowest 12 or fewer, and are shown almost black (%s): multiply their values "
            "by 16, or whatever brings the brightest near 65535",
            len(paths),
            shown,
        )


def _recall(
    memory: Memory, folder: str, paths: Sequence[str], max_pixels: int, room: Room
) -> dict[str, Facts | Failure]:
    """What needs no reading: facts that are remembered, and failures that the name or the status shows."""
    found: dict[str, Facts | Failure] = {}
    stamps: dict[str, Stamp] = {}
    for path in paths:
        file = f"{folder}/{path}"
        try:
            file.encode()
            status = os.stat(file)  # noqa: PTH116
        except UnicodeEncodeError:
            found[path] = _failure(path, None, "the name is not valid Unicode")
        except OSError as e:
            found[path] = _failure(path, None, f"can't be read: {e.strerror}")
        else:
            if not stat.S_ISREG(status.st_mode):
                found[path] = Failure(path, "not a file")
            elif not kinds.named_raw(path):  # which earlier versions took for its thumbnail
                stamps[file] = Stamp.of(status)
    for file, facts in memory.get(stamps).items():
        # One above today's max_pixels is left to the decoder, one that may not fit the room to its header: they say so.
        pixels = facts.width * facts.height
        if pixels <= max_pixels and stamps[file].size + pixels * cost.MOST_BYTES_A_PIXEL <= room.total_bytes:
            found[file[len(folder) + 1 :]] = facts
    return found


def _check(links: Links, path: str, max_pixels: int, room: Room) -> _Checked:
    """Reads one file."""
    head = None
    try:
        with links.open(path) as file:
            stamp, now_ns = Stamp.of(os.fstat(file.fileno())), time.time_ns()
            head = file.read(kinds.HEAD_BYTES)
            if kinds.is_raw(path, head):
                return _Checked(_failure(path, head, ""), None)
            if made_here.is_made_here(file, head):
                return _Checked(Failure(path, "a picture that cnncodes drew", "left_out"), None)
            facts = facts_of(file, max_pixels=max_pixels, room=room)
    except NoRoomError as e:
        return _Checked(Failure(printable(path), str(e), "too_large"), None)
    except DecodeError as e:
        return _Checked(_failure(path, head, str(e)), None)
    except OSError as e:
        passed_by = isinstance(e, NotFollowedError)
        unread = None if passed_by else _failure(path, None, f"can't be read: {e.strerror}")
        return _Checked(unread or Failure(printable(path), NOT_FOLLOWED, "not_followed"), None)
    return _Checked(facts, stamp if stamp.is_settled(now_ns) else None)


def facts_of(file: io.BufferedReader, *, max_pixels: int, room: Room) -> Facts:
    """What an open file is; its structure tells, or it is decoded. Raises DecodeError, NoRoomError and OSError."""
    # First, since it stops early at what is not an image, such as a video of gigabytes.
    need_bytes = cost.look(file, max_pixels=max_pixels).bytes
    with room.hold(need_bytes):
        source = file.read() if need_bytes else file
        seen = inspect(source, max_pixels=max_pixels)
        if isinstance(source, bytes):
            sha256 = hashlib.sha256(source).hexdigest()
        else:
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Facts(sha256, seen.width, seen.height, seen.decoder, seen.dark, seen.whole)


def _failure(path: str, head: bytes | None, reason: str) -> Failure:
    kind, words = kinds.judge(path, head, reason)
    return Failure(printable(path), words, kind)
