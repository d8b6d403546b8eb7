"""What the finetune stage left: one `Tuned` for each strategy, and the heads on codes that stand beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.finetune.outputs import read_correct, read_curves
from pipeline.report.runs import Run
from pipeline.schema import read_json

Curve = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Tuned:
    """`record` is metrics.json; `curves` has one curve a repeat (`finetune.outputs.read_curves`), or none. `folder` has
    the predictions."""

    name: str
    record: Mapping[str, Any]
    curves: Sequence[Curve]
    folder: Path

    @property
    def kind(self) -> str:
        return str(self.record["kind"])

    @property
    def settings(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.record["settings"]
        return found

    @property
    def repeats(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.record["repeats"]
        return found

    @property
    def size(self) -> int:
        """Side in pixels of the images that it saw."""
        return int(self.record["params"]["size"])

    def correct(self) -> dict[str, bool]:
        """Test image of the first split -> whether its class was named. Raises UserError without predictions."""
        return read_correct(self.folder / "predictions.csv", int(self.repeats[0]["repeat"]))

    def mean(self, figure: str) -> float:
        """Over repeats; NaN where a repeat has no value."""
        value = self.record["mean"][figure]
        return math.nan if value is None else float(value)

    def std(self, figure: str) -> float:
        """With n - 1; NaN of a single repeat, which has no spread."""
        value = self.record["std"][figure]
        return math.nan if value is None or len(self.repeats) < 2 else float(value)

    def mean_curve(self, figure: str) -> list[tuple[int, float]]:
        """(epoch, mean over the repeats that reached it); epochs without a value are left out."""
        values: dict[int, list[float]] = {}
        for curve in self.curves:
            for row in curve:
                if row[figure] is not None:
                    values.setdefault(row["epoch"], []).append(row[figure])
        return [(epoch, float(np.mean(found))) for epoch, found in sorted(values.items())]


def read_tuned(folder: Path, names: Sequence[str]) -> tuple[Tuned, ...]:
    """Every strategy that was not skipped, in the order of `names`. Raises UserError naming all that are missing."""
    missing = [name for name in names if not (folder / name / "metrics.json").is_file()]
    if missing:
        raise UserError(f"{folder} has no results of {', '.join(missing)}", see="`dvc repro finetune`")
    found = [(name, read_json(folder / name / "metrics.json")) for name in names]
    return tuple(
        Tuned(name, record, read_curves(folder / name / "curves.csv"), folder / name)
        for name, record in found
        if "skipped" not in record
    )


@dataclass(frozen=True)
class Baseline:
    """A linear head on the codes of the layer that did best on val, over the repeats that strategies have too."""

    run: Run
    repeats: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.run.head} on {self.run.spec.name}"

    def mean(self, figure: str) -> float:
        """NaN where a repeat has no value."""
        return float(np.mean(self._values(figure)))

    def std(self, figure: str) -> float:
        """With n - 1; NaN of a single repeat."""
        return float(np.std(self._values(figure), ddof=1)) if len(self.repeats) > 1 else math.nan

    def _values(self, figure: str) -> list[float]:
        return [math.nan if (value := r.get(figure)) is None else float(value) for r in self.repeats]


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
