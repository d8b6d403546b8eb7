"""What the retrieval stage left: one `Retrieved` for each hash spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import HashSpec
from pipeline.data import csv_files
from pipeline.errors import UserError
from pipeline.figures.records.retrieval import Retrieved
from pipeline.schema import read_json


def read_retrieved(folder: Path, names: Sequence[str]) -> tuple[Retrieved, ...]:
    """Every spec, skipped or not, in the order of `names`. Raises UserError naming all that are missing."""
    missing = [name for name in names if not (folder / name / "metrics.json").is_file()]
    if missing:
        raise UserError(f"{folder} has no results of {', '.join(missing)}", see="`dvc repro retrieval`")
    return tuple(
        Retrieved(HashSpec.parse(name), read_json(folder / name / "metrics.json"), _training(folder / name))
        for name in names
    )


def _training(folder: Path) -> tuple[Mapping[str, str], ...]:
    """Rows of training.csv; () of a hasher that is not trained by epochs."""
    path = folder / "training.csv"
    return tuple(csv_files.records(path)) if path.is_file() else ()
