"""A folder of images: class = first folder level, or a flat folder without labels, or a labels.csv in the root.

Images that labels.csv doesn't list are left out. Symlinks are followed; a link back to a folder above it is not. Hidden
files and what operating systems leave behind are no images; every other file is one, or a failure to report.
"""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import DatasetParams
from pipeline.data.sources import labels_csv
from pipeline.data.sources.base import SPLIT_NAMES, Listing, Record, known_split
from pipeline.errors import UserError

_SYSTEM_FILES = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})

log = logging.getLogger(__name__)


def read(params: DatasetParams, images: Path) -> Listing:
    """The images below `params.root`. Raises UserError if the folder is missing, empty or ill-labelled."""
    root = Path(params.root)
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise UserError(f"dataset.root: {params.root} {kind}", allowed="a folder of images", see="README.md")
    paths = list(walk(params.root))
    if labels := labels_csv.find(root):
        return Listing(root, _listed(labels, paths, split_folders=params.splits == "folders"))
    if unread := [p for p in paths if posixpath.basename(p).casefold() == labels_csv.NAME]:
        log.warning("%s is not read: a labels.csv counts right in %s", min(unread), params.root)
    if not paths:
        raise UserError(f"{params.root} holds no files", allowed="a folder of images, or of one folder a class")
    if params.splits == "folders":
        return Listing(root, [_in_split_folder(p) for p in paths])
    tops = {p.partition("/")[0] for p in paths if "/" in p}
    if tops and all(t.casefold() in SPLIT_NAMES for t in tops):
        log.warning("%s are taken as classes; to take them as splits, set dataset.splits: folders", sorted(tops))
    return Listing(root, [Record(p, label=_first(p)) for p in paths])


def walk(root: str) -> Iterator[str]:
    """Paths of all files below `root`, relative to it, with `/`. A link that leads nowhere is a path too.

    Raises UserError if a folder can't be read.
    """
    # A link may show one folder in two places, but never below itself: hence the ids of the folders above, each time.
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            here = os.stat(os.path.join(root, folder))  # noqa: PTH116, PTH118  Path objects would triple the time
            if (here.st_dev, here.st_ino) in above:
                continue
            with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in _SYSTEM_FILES:
                        continue
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir():
                        waiting.append((path, above | {(here.st_dev, here.st_ino)}))
                    elif entry.is_file() or entry.is_symlink():  # leaves out sockets, pipes and devices
                        yield path
        except OSError as e:
            raise UserError(f"can't read the folder {posixpath.join(root, folder)}: {e.strerror}") from e


def _first(path: str) -> str:
    """The first folder of a path, "" if there is none."""
    folder, slash, _ = path.partition("/")
    return folder if slash else ""


def _in_split_folder(path: str) -> Record:
    top, _, rest = path.partition("/")
    if not rest:
        raise UserError(
            f"dataset.splits is folders, but {top} lies beside the split folders",
            allowed=f"folders {list(SPLIT_NAMES)}",
        )
    return Record(path, label=_first(rest), split=known_split(top, where="dataset.splits is folders, but the root"))


def _listed(file: Path, paths: list[str], *, split_folders: bool) -> list[Record]:
    """The rows of labels.csv; the log says how many of `paths`, the files below the root, it leaves out."""
    split_of = (lambda path: _in_split_folder(path).split) if split_folders else None
    records = labels_csv.read(file, paths, split_of=split_of)
    others = len(set(paths) - {r.path for r in records} - {file.name})
    if others:
        log.warning("%d file(s) below %s are left out, since %s doesn't list them", others, file.parent, file.name)
    return records
