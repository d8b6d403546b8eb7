"""A folder of images: class = first folder level, or a flat folder without labels, or a labels.csv in the root.

Images that labels.csv doesn't list are left out. Links are followed as far as `data.links` says; a link back to a
folder above it is not. What systems and programs put among photographs is left out (`data.left_out`); every other file
is an image, or a failure to report.
"""

from __future__ import annotations

import logging
import os
import posixpath
import shlex
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import UserError
from pipeline.config import DatasetParams
from pipeline.data import kinds
from pipeline.data.left_out import LeaveOut
from pipeline.data.links import NOT_FOLLOWED, Links
from pipeline.data.manifest import Failure, printable
from pipeline.data.sources import labels_csv
from pipeline.data.sources.base import SPLIT_NAMES, Listing, Record, known_split

log = logging.getLogger(__name__)

# The part of a path below which `dvc exp run --temp` and `--queue` have their copies of a project.
_COPIES = "/.dvc/tmp/exps/"


def require_folder(root: str | Path) -> Path:
    """Raises UserError if there is no such folder."""
    path = Path(root)
    if not path.is_dir():
        if not path.exists():
            raise UserError(missing(root), allowed="a folder of images", see="README.md")
        raise UserError(f"dataset.root: {root} is a file", allowed="a folder of images", see="README.md")
    return path


def missing(root: str | Path) -> str:
    """What to say of a `dataset.root` that does not exist: in the copy of the project that DVC makes for an experiment
    in the queue, where the photographs are.
    """
    said = f"dataset.root: {root} does not exist"
    project, copied, _ = str(Path.cwd()).rpartition(_COPIES)
    there = Path(project, root)
    if not copied or Path(root).is_absolute() or not there.exists():
        return said
    return f"{said} in this copy of the project; give the full path: -S dataset.root={shlex.quote(str(there))}"


def read(params: DatasetParams, images: Path) -> Listing:
    """The images below `params.root`. Raises UserError if the folder is missing, empty or ill-labelled."""
    root = require_folder(params.root)
    rules, links, left_out = LeaveOut(params.leave_out), Links(params.root, follow=params.follow_links), list[Failure]()
    paths = list(walk(params.root, rules, links, left_out))
    if labels := labels_csv.find(root):
        if not links.may_follow(labels.name):
            raise UserError(f"{labels} is {NOT_FOLLOWED}")
        return _listed(labels, paths, rules, links, left_out, split_folders=params.splits == "folders")
    if unread := [p for p in paths if posixpath.basename(p).casefold() == labels_csv.NAME]:
        log.warning("%s is not read: a labels.csv counts right in %s", min(unread), params.root)
    if not paths:
        one = f" but what is left out ({left_out[0].path}: {left_out[0].reason})" if left_out else ""
        raise UserError(f"{params.root} holds no files{one}", allowed="a folder of images, or of one folder a class")
    if params.splits == "folders":
        return Listing(root, [_in_split_folder(p, root) for p in paths], left_out, links=links)
    tops = {p.partition("/")[0] for p in paths if "/" in p}
    if tops and all(t.casefold() in SPLIT_NAMES for t in tops):
        log.warning("%s are taken as classes; to take them as splits, set dataset.splits: folders", sorted(tops))
    return Listing(root, [Record(p, label=_first(p)) for p in paths], left_out, links=links)


def walk(root: str, rules: LeaveOut, links: Links, left_out: list[Failure]) -> Iterator[str]:
    """Paths of all files below `root`, relative to it, with `/`, but those that the rules leave out, and links that may
    not be followed.

    These are added to `left_out`, a folder as a whole. A link that leads nowhere is a path too. Raises UserError if a
    folder can't be read.
    """
    # A link may show one folder in two places, but never below itself: hence the ids of the folders above, each time.
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    top = os.path.basename(os.path.abspath(root))  # noqa: PTH119
    while waiting:
        folder, above = waiting.pop()
        try:
            here = os.stat(os.path.join(root, folder))  # noqa: PTH116, PTH118  Path objects would triple the time
            if (here.st_dev, here.st_ino) in above:
                continue
            with os.scandir(os.path.join(root, folder)) as found:  # noqa: PTH118
                entries = list(found)
            if folder and (why := rules.ours(folder, os.path.join(root, folder), (e.name for e in entries))):  # noqa: PTH118
                left_out.append(Failure(printable(folder), why, "left_out"))
                continue
            parent = folder.rpartition("/")[2] or top
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                is_folder = entry.is_dir()
                if why := rules.why(path, parent, is_folder=is_folder):
                    left_out.append(Failure(printable(path), why, "left_out"))
                elif entry.is_symlink() and not links.may_follow(path):
                    left_out.append(Failure(printable(path), NOT_FOLLOWED, "not_followed"))
                elif is_folder:
                    waiting.append((path, above | {(here.st_dev, here.st_ino)}))
                elif entry.is_file() or entry.is_symlink():  # leaves out sockets, pipes and devices
                    yield path
        except OSError as e:
            raise UserError(f"can't read the folder {posixpath.join(root, folder)}: {e.strerror}") from e


def _first(path: str) -> str:
    """The first folder of a path, "" if there is none."""
    folder, slash, _ = path.partition("/")
    return folder if slash else ""


def _in_split_folder(path: str, root: Path | None = None) -> Record:
    """With `root`, a file that is not an image may lie anywhere."""
    top, _, rest = path.partition("/")
    if root is not None and not (rest and top.casefold() in SPLIT_NAMES) and kinds.is_other(root / path):
        return Record(path)
    if not rest:
        raise UserError(
            f"dataset.splits is folders, but {top} lies beside the split folders",
            allowed=f"folders {list(SPLIT_NAMES)}",
        )
    return Record(path, label=_first(rest), split=known_split(top, where="dataset.splits is folders, but the root"))


def _listed(
    file: Path, paths: list[str], rules: LeaveOut, links: Links, passed_by: list[Failure], *, split_folders: bool
) -> Listing:
    """The rows of labels.csv, but those that the rules leave out, and links that may not be followed; the log says how
    many of `paths`, the files below the root, it leaves out itself. `passed_by`: what was left out beside them.
    """
    split_of = (lambda path: _in_split_folder(path).split) if split_folders else None
    records = labels_csv.read(file, paths, links=links, split_of=split_of)
    others = len(set(paths) - {r.path for r in records} - {file.name})
    if others:
        log.warning("%d file(s) below %s are left out, since %s doesn't list them", others, file.parent, file.name)
    walked = set(paths)
    reasons = [_left_out(r.path, rules) or _not_followed(r.path, links, walked) for r in records]
    kept = [r for r, why in zip(records, reasons, strict=True) if why is None]
    if not kept:
        first = next(filter(None, reasons))
        came = f"{first.path}: {first.reason}"
        raise UserError(f"{file} lists nothing but files that are left out ({came})", see="docs/params.md")
    # A folder that the walk passed by, while rows of labels.csv name files in it, is not left out as a whole.
    entered = {part for r in kept for part in _parts(r.path)}
    left_out = {f for f in [*passed_by, *filter(None, reasons)] if f.path not in entered}
    return Listing(file.parent, kept, sorted(left_out), links=links)


def _left_out(path: str, rules: LeaveOut) -> Failure | None:
    """What leaves out a path that labels.csv names: its own name, or a folder above it."""
    for part in _parts(path):
        parent = part.rpartition("/")[0].rpartition("/")[2]
        if why := rules.why(part, parent, is_folder=part != path, named=True):
            return Failure(printable(part), why, "left_out")
    return None


def _not_followed(path: str, links: Links, walked: set[str]) -> Failure | None:
    """What leaves out a path that labels.csv names and the walk did not come by."""
    followed = path in walked or links.may_follow(path)
    return None if followed else Failure(printable(path), NOT_FOLLOWED, "not_followed")


def _parts(path: str) -> list[str]:
    """The folders above a path, the highest first, and the path."""
    return [path[:i] for i, c in enumerate(path) if c == "/"] + [path]
