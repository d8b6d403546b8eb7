"""A small file that changes whenever one of many large ones does: what DVC keeps in place of photographs.

What the stage `dataset` asks of each image is found from the same reading and remembered, so that it reads none again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipeline.base import csv_files, disk, stopping
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.data.left_out import LeaveOut
from pipeline.data.links import Links
from pipeline.data.manifest import Failure, printable
from pipeline.data.memory import Facts, Memory
from pipeline.data.room import NoRoomError, Room
from pipeline.data.sources.folder import missing, walk
from pipeline.data.stamps import Stamp

log = logging.getLogger(__name__)

# Pillow's own limit. An image that is allowed fewer is judged by the stage `dataset`.
_MOST_PIXELS = 178_956_970


def write(root: str, file: Path, *, leave_out: Sequence[str], follow_links: bool) -> None:
    """Columns path, sha256 of all files below the folder `root`, sorted by path, or of the file `root` alone.

    What the rules leave out stands there without a digest, since its content changes no result; so do links that are
    not followed, and what can't be read. Files that are remembered are not read. Raises UserError if `root` is missing
    or a folder can't be read.
    """
    if os.path.isdir(root):  # noqa: PTH112  as `walk`, which takes text
        left_out = list[Failure]()
        links = Links(root, follow=follow_links)
        paths = sorted(walk(root, LeaveOut(leave_out), links, left_out))
        known = zip(map(printable, paths), _digests(root, paths, links), strict=True)
        rows = [*known, *((f.path, "") for f in left_out)]
    elif Path(root).exists():
        parent, name = os.path.split(os.path.abspath(root))
        rows = [(name, _digest(Links(parent, follow=True), name))]
    else:
        raise UserError(missing(root), allowed="a folder of images, or a file")
    disk.write_text(file, csv_files.text([("path", "sha256"), *sorted(rows)]))


def _digests(root: str, paths: Sequence[str], links: Links) -> list[str]:
    """The sha256 of each file, "" of what can't be read or is not a regular file."""
    files = {os.path.join(os.path.abspath(root), path): path for path in paths}  # noqa: PTH118  as memory has them
    stamps = {file: stamp for file in files if (stamp := _stamp(file))}
    memory = Memory(cache_root() / "files.sqlite")
    found = {file: facts.sha256 for file, facts in memory.get(stamps).items()}
    unknown = [file for file in stamps if file not in found]
    room = Room()
    with (
        contextlib.closing(memory),
        stopping.says(lambda: f"{len(found)} of {len(files)} files are hashed; {stopping.GOES_ON}"),
        memory.putting() as put,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        try:
            reading = pool.map(lambda file: _read(links, files[file], room), unknown)
            for file, (digest, stamp, facts) in zip(unknown, reading, strict=True):
                found[file] = digest
                if stamp is not None and facts is not None:
                    put(file, stamp, facts)
        finally:
            pool.shutdown(cancel_futures=True)
    log.info("%d files, %d of them hashed by reading", len(files), len(unknown))
    return [found.get(file, "") for file in files]


def _stamp(file: str) -> Stamp | None:
    """None of what is not a regular file, or has a name that is not Unicode."""
    try:
        file.encode()
        status = os.stat(file)  # noqa: PTH116  as in `verify`
    except (OSError, UnicodeEncodeError):
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None


class _Read(NamedTuple):
    """`stamp`: to remember the facts by, None if they must not be. `facts`: of an image."""

    digest: str
    stamp: Stamp | None = None
    facts: Facts | None = None


def _read(links: Links, path: str, room: Room) -> _Read:
    """The digest is "" if it can't be read."""
    try:
        with links.open(path) as file:
            stamp, now_ns = Stamp.of(os.fstat(file.fileno())), time.time_ns()
            if (facts := _facts(file, path, room)) is not None:
                return _Read(facts.sha256, stamp if stamp.is_settled(now_ns) else None, facts)
            file.seek(0)
            return _Read(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError:
        return _Read("")


def _facts(file: io.BufferedReader, path: str, room: Room) -> Facts | None:
    """What a file is, or None: it is no image, or it is left to the stage `dataset` to judge."""
    # Here, since a run that reads nothing has no need of a decoder.
    from pipeline.data import kinds, made_here
    from pipeline.data.decode import DecodeError
    from pipeline.data.verify import facts_of

    head = file.read(kinds.HEAD_BYTES)
    if kinds.is_raw(path, head) or made_here.is_made_here(file, head):
        return None
    try:
        return facts_of(file, max_pixels=_MOST_PIXELS, room=room)
    except (DecodeError, NoRoomError):
        return None


def _digest(links: Links, path: str) -> str:
    try:
        with links.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
