"""A folder of results by name, of which a run makes those that are missing or were made of something else.

Each lies in a folder of its own. `made-of.json` in it, written last, has the fingerprint of all that decided the
result, and the sha256 of each file: a folder that a run left half-written, or whose files were changed, is made again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS

log = logging.getLogger(__name__)

MADE_OF = "made-of.json"


@dataclass(frozen=True)
class Item:
    """`of`: all that decides the result, as plain values. `make` writes its files into a folder."""

    of: Mapping[str, Any]
    make: Callable[[Path], object]


def make_missing(folder: Path, items: Mapping[str, Item]) -> list[str]:
    """Makes `folder`/<name> of each item that is not there as it should be, in order; returns their names."""
    made = []
    for name, item in items.items():
        out, mark = folder / name, json_files.fingerprint(item.of)
        if _is_there(out, mark):
            log.info("%s: as it was", out)
            continue
        _remove(out)
        item.make(out)
        json_files.write_last(out / MADE_OF, _stamp(out, mark))
        made.append(name)
    return made


def remove_others(folder: Path, names: Mapping[str, object]) -> None:
    """Removes what lies in `folder` and has none of the names."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in names:
            _remove(path)


def _is_there(out: Path, mark: str) -> bool:
    try:
        return bool(json_files.read(out / MADE_OF) == _stamp(out, mark))
    except (UserError, OSError):
        return False


def _stamp(out: Path, mark: str) -> dict[str, Any]:
    files = sorted(path for path in out.iterdir() if path.name != MADE_OF)
    return {"version": VERSIONS["items"], "of": mark, "files": {path.name: disk.sha256(path) for path in files}}


def _remove(path: Path) -> None:
    """A link goes, what it leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
