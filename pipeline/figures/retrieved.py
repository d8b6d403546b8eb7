"""What the retrieval stage left: one `Retrieved` for each hash spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.base import csv_files, json_files
from pipeline.base.errors import UserError
from pipeline.config import HashSpec
from pipeline.figures.records.retrieval import Retrieved


def read_retrieved(folder: Path, names: Sequence[str]) -> tuple[Retrieved, ...]:
    """Every spec, skipped or not, in the order of `names`. Raises UserError naming all that are missing."""
    missing = [name for name in names if not (folder / name / "metrics.json").is_file()]
    if missing:
        raise UserError(f"{folder} has no results of {', '.join(missing)}", see="`dvc repro retrieval`")
    return tuple(
        Retrieved(HashSpec.parse(name), json_files.read(folder / name / "metrics.json"), _training(folder / name))
        for name in names
    )


def _training(folder: Path) -> tuple[Mapping[str, str], ...]:
    """Rows of training.csv; () of a hasher that is not trained by epochs."""
    path = folder / "training.csv"
    return tuple(csv_files.records(path)) if path.is_file() else ()
