"""What the heads stage left: one `Run` for each layer spec and head, and its predictions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base import hdf5_files, json_files
from pipeline.base.errors import UserError
from pipeline.base.skipped import reason_in
from pipeline.base.versions import VERSIONS
from pipeline.config import LayerSpec
from pipeline.figures.records.runs import Run
from pipeline.metrics.classify import predicted


@dataclass(frozen=True)
class Predictions:
    """A head's answers for one repeat's test images: ids (n,), true (n,) and scores (n, k)."""

    ids: NDArray[np.str_]
    true: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: bool

    @functools.cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) the class of the highest score; of equal ones the first."""
        return predicted(self.scores)

    @property
    def correct(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.predicted == self.true
        return right


def predictions(folder: Path, run: Run, repeat: int) -> Predictions:
    """A repeat's, from the folder of all heads. Raises UserError if the file is missing, of another version or
    without that repeat."""
    return _read_predictions(folder / f"{run.codes}-{run.head}" / "predictions.h5", repeat)


@functools.lru_cache(maxsize=512)
def _read_predictions(path: Path, repeat: int) -> Predictions:
    if not path.is_file():
        raise UserError(f"{path} does not exist", see="`dvc repro heads`")
    try:
        return _repeat_of(path, repeat)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as e:
        detail = " ".join(str(e).split())[:200]
        raise UserError(f"{path} can't be read ({detail}); it may have been cut short", see="`dvc repro heads`") from e


def _repeat_of(path: Path, repeat: int) -> Predictions:
    with hdf5_files.opened(path) as file:
        if file.attrs.get("version") != VERSIONS["predictions"]:
            raise UserError(
                f"{path} has predictions of version {file.attrs.get('version')}",
                allowed=str(VERSIONS["predictions"]),
            )
        if f"repeat_{repeat}" not in file:
            raise UserError(f"{path} has no repeat {repeat}", allowed=list(file))
        group = file[f"repeat_{repeat}"]
        return Predictions(
            ids=group["ids"][:].astype(np.str_),
            true=group["true"][:].astype(np.int64),
            scores=group["scores"][:],
            probabilities=bool(file.attrs["probabilities"]),
        )


def read_runs(folder: Path, specs: Sequence[str], heads: Sequence[str], *, network: str = "") -> list[Run]:
    """Every combination, specs outermost; [] if they were all skipped for want of labels. `network`: as `Run` has it.

    Raises UserError naming every combination that is missing.
    """
    below = f"{network}." if network else ""
    names = [f"{below}{spec}-{head}" for spec in specs for head in heads]
    missing = [name for name in names if not (folder / name / "metrics.json").is_file()]
    if missing:
        raise UserError(f"{folder} has no results of {', '.join(missing)}", see="`dvc repro heads`")
    found = [_read_run(folder / name, network) for name in names]
    return [run for run in found if run is not None]


def _read_run(folder: Path, network: str) -> Run | None:
    record = json_files.read(folder / "metrics.json")
    if reason_in(record):
        return None
    return Run(
        spec=LayerSpec.parse(record["spec"]),
        head=record["head"],
        dim=int(record["dim"]),
        bytes_per_code=float(record["bytes_per_code"]),
        repeats=tuple(sorted(record["repeats"], key=lambda r: r["repeat"])),
        majority=record["majority"],
        network=network,
    )
