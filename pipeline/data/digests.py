"""A small file that changes whenever one of many large ones does: what DVC keeps in place of photographs."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.base import csv_files, disk
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.data.left_out import LeaveOut
from pipeline.data.links import Links
from pipeline.data.manifest import Failure, printable
from pipeline.data.memory import Memory, Stamp
from pipeline.data.sources.folder import missing, walk

log = logging.getLogger(__name__)


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
    memory.close()
    unknown = [file for file in stamps if file not in found]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found.update(zip(unknown, pool.map(lambda file: _digest(links, files[file]), unknown), strict=True))
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


def _digest(links: Links, path: str) -> str:
    try:
        with links.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
