"""The full check of every file: that it decodes, its sha256 and its size. Files that are remembered are not read."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipeline.cache import cache_root
from pipeline.data.decode import DecodeError, decode
from pipeline.data.manifest import Failure
from pipeline.data.memory import Facts, Memory, Stamp

log = logging.getLogger(__name__)

# Files looked up, read and remembered together: bounds memory, and a run that is killed keeps what it had.
_BATCH = 2048
_LOG_EVERY_S = 15.0


class _Checked(NamedTuple):
    result: Facts | Failure
    stamp: Stamp | None  # to remember the facts by; None if they were remembered, or must not be


def verify(root: str | Path, paths: Sequence[str], *, max_pixels: int) -> Iterator[Facts | Failure]:
    """For each path below `root`, in order: its facts, or why it is left out.

    Files are read on all cores. Raises UserError if the memory of hashed files can't be used.
    """
    memory = Memory(cache_root() / "files.sqlite")
    folder = os.path.abspath(root)  # noqa: PTH100  strings: a million Path objects cost seconds
    read, logged_s = 0, time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for start in range(0, len(paths), _BATCH):
                batch = paths[start : start + _BATCH]
                found = [_recall(memory, folder, path, max_pixels) for path in batch]
                unknown = [i for i, result in enumerate(found) if result is None]
                checks = pool.map(lambda path: _check(folder, path, max_pixels), [batch[i] for i in unknown])
                news = []
                for i, checked in zip(unknown, checks, strict=True):
                    found[i] = checked.result
                    if checked.stamp is not None and isinstance(checked.result, Facts):
                        news.append((f"{folder}/{batch[i]}", checked.stamp, checked.result))
                memory.put(news)
                read += len(unknown)
                if time.monotonic() - logged_s > _LOG_EVERY_S:
                    logged_s = time.monotonic()
                    log.info("checked %d of %d files", start + len(batch), len(paths))
                yield from (result for result in found if result is not None)
        finally:
            memory.close()
            pool.shutdown(cancel_futures=True)
    log.info("checked %d files, %d of them by reading", len(paths), read)


def _recall(memory: Memory, folder: str, path: str, max_pixels: int) -> Facts | Failure | None:
    """What needs no reading: facts that are remembered, or a failure that the name or the status shows."""
    file = f"{folder}/{path}"
    try:
        file.encode()
        status = os.stat(file)  # noqa: PTH116
    except UnicodeEncodeError:
        return Failure(path.encode(errors="backslashreplace").decode(), "the name is not valid Unicode")
    except OSError as e:
        return Failure(path, f"can't be read: {e.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Failure(path, "not a file")
    facts = memory.get(file, Stamp.of(status))
    # A smaller max_pixels than in the run that is remembered is left to the decoder, which says so.
    return facts if facts is not None and facts.width * facts.height <= max_pixels else None


def _check(folder: str, path: str, max_pixels: int) -> _Checked:
    """Reads and decodes one file."""
    try:
        with open(f"{folder}/{path}", "rb") as file:  # noqa: PTH123
            stamp, now_ns = Stamp.of(os.fstat(file.fileno())), time.time_ns()
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            height, width, _ = decode(file, max_pixels=max_pixels).shape
    except DecodeError as e:
        return _Checked(Failure(path, str(e)), None)
    except OSError as e:
        return _Checked(Failure(path, f"can't be read: {e.strerror}"), None)
    return _Checked(Facts(sha256, width, height), stamp if stamp.is_settled(now_ns) else None)
