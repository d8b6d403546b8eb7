"""A folder of images: class = first folder level, or a flat folder without labels, or a labels.csv in the root.

labels.csv has the columns path and label, and may have group and split; its paths are relative to the folder, and
images that it doesn't list are left out. Symlinks are followed; a link back to a folder above it is not. Hidden files
and what operating systems leave behind are no images; every other file is one, or a failure to report.
"""

from __future__ import annotations

import csv
import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import DatasetParams
from pipeline.data.sources.base import SPLIT_NAMES, Listing, Record, known_split
from pipeline.errors import UserError

LABELS = "labels.csv"

_SYSTEM_FILES = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})
_COLUMNS = ("path", "label", "group", "split")

log = logging.getLogger(__name__)


def read(params: DatasetParams, images: Path) -> Listing:
    """The images below `params.root`. Raises UserError if the folder is missing, empty or ill-labelled."""
    root = Path(params.root)
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise UserError(f"dataset.root: {params.root} {kind}", allowed="a folder of images", see="README.md")
    if (root / LABELS).is_file():
        return Listing(root, _listed(root, split_folders=params.splits == "folders"))
    paths = list(walk(params.root))
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


def _listed(root: Path, *, split_folders: bool) -> list[Record]:
    """The rows of labels.csv."""
    where = str(root / LABELS)
    try:
        with (root / LABELS).open(encoding="utf-8-sig", newline="") as f:
            rows = csv.DictReader(f, strict=True)
            columns = rows.fieldnames or ()
            if not {"path", "label"} <= set(columns) <= set(_COLUMNS):
                raise UserError(f"{where} has the columns {list(columns)}", allowed="path, label[, group][, split]")
            records = [_row(row, f"{where} line {rows.line_num}", split_folders=split_folders) for row in rows]
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{where} is not CSV in UTF-8: {e}") from e
    if not records:
        raise UserError(f"{where} lists no images", allowed="one row an image")
    listed = Counter(r.path for r in records)
    twice = sorted(path for path, times in listed.items() if times > 1)
    if twice:
        raise UserError(f"{where} lists {len(twice)} path(s) twice, the first {twice[0]!r}", allowed="one row an image")
    if any(r.split for r in records) and not all(r.split for r in records):
        raise UserError(f"{where} gives some rows a split and others none", allowed="all rows, or no split column")
    others = sum(path not in listed and path != LABELS for path in walk(str(root)))
    if others:
        log.warning("%d file(s) below %s are left out, since %s doesn't list them", others, root, LABELS)
    return records


def _row(row: dict[str, str | None], where: str, *, split_folders: bool) -> Record:
    values = {k: v or "" for k, v in row.items() if k in _COLUMNS}
    if None in row or None in row.values():
        raise UserError(f"{where} has more or fewer values than the header")
    path = posixpath.normpath(values["path"].replace("\\", "/")) if values["path"] else ""
    if not path or path.startswith(("/", "../")) or path in (".", "..") or "\0" in "".join(values.values()):
        raise UserError(f"{where} has the path {values['path']!r}", allowed="a path inside the folder")
    split = values.get("split", "")
    if split:
        split = known_split(split, where=where)
    elif split_folders and "split" not in values:
        split = _in_split_folder(path).split
    return Record(path, values["label"], values.get("group", ""), split)
