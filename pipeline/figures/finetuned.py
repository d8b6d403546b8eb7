"""What the finetune stage left: one `Finetuned` for each strategy, and the heads on codes that stand beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.base.skipped import reason_in
from pipeline.figures.records.runs import Run
from pipeline.figures.records.strategies import Baseline, Finetuned
from pipeline.strategies.outputs import read_correct, read_curves


def read_finetuned(folder: Path, names: Sequence[str]) -> tuple[Finetuned, ...]:
    """Every strategy that was not skipped, in the order of `names`. Raises UserError naming all that are missing."""
    missing = [name for name in names if not (folder / name / "metrics.json").is_file()]
    if missing:
        raise UserError(f"{folder} has no results of {', '.join(missing)}", see="`dvc repro finetune`")
    found = [(name, json_files.read(folder / name / "metrics.json")) for name in names]
    return tuple(
        Finetuned(name, record, read_curves(folder / name / "curves.csv"))
        for name, record in found
        if not reason_in(record)
    )


def baselines(runs: Sequence[Run], heads: Sequence[str], repeats: int) -> list[Baseline]:
    """One for each of `heads` that was measured: its best mean `val_score` over the first repeats, never a test figure.

    A head that had nothing to choose has no score on val, and is left out.
    """
    found = []
    for head in heads:
        candidates = [(run, run.repeats[:repeats]) for run in runs if run.head == head]
        scored = [(run, own) for run, own in candidates if all(r.get("val_score") is not None for r in own)]
        if scored:
            found.append(Baseline(*max(scored, key=lambda one: float(np.mean([r["val_score"] for r in one[1]])))))
    return found


def correct(folder: Path, one: Finetuned) -> dict[str, bool]:
    """Test image of the first split -> whether its class was named, from the folder of all strategies. Raises UserError
    without predictions."""
    return read_correct(folder / one.name / "predictions.csv", int(one.repeats[0]["repeat"]))
