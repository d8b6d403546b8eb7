"""Strategies that were finished: of several that one command trains, a stop in the last costs the others nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError

FOLDER = "finetune-done"
METRICS = "metrics.json"


def remember(cache: Path, mark: str, out: Path, names: Iterable[str]) -> None:
    """What is in `out` now is the result that `mark` names; `names` of files that may be there."""
    there = [name for name in (*names, METRICS) if (out / name).is_file()]
    json_files.write(_file(cache, mark), {name: disk.sha256(out / name) for name in there})


def result(cache: Path, mark: str, out: Path) -> dict[str, Any] | None:
    """What metrics.json in `out` holds, if all files are there as they were remembered."""
    try:
        digests = json_files.read(_file(cache, mark))
        if all((out / name).is_file() and disk.sha256(out / name) == d for name, d in digests.items()):
            found: dict[str, Any] = json_files.read(out / METRICS)
            return found
    except (UserError, AttributeError):
        pass
    return None


def _file(cache: Path, mark: str) -> Path:
    return cache / FOLDER / f"{mark[:32]}.json"
