"""What a step of the procedure says, and the files that keep it. Nothing here loads torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.base import json_files
from pipeline.base.skipped import Skipped

Verdict = Literal["pass", "warn", "fail"]
# The worst first.
VERDICTS: tuple[Verdict, ...] = ("fail", "warn", "pass")

# Column -> values, all columns of a length; None where a run has no such value.
Columns = dict[str, list[float | None]]


@dataclass(frozen=True)
class Step:
    """`seen` and `advice` are sentences, the second empty where nothing is to be done. `curve` is for a drawing, and
    `marks` are the values of some of its columns that the drawing points out."""

    name: str
    verdict: Verdict
    seen: str
    advice: str
    curve: Columns
    marks: Mapping[str, float] = field(default_factory=dict)


def column(values: Iterable[float]) -> list[float | None]:
    """Values for `curve`: what is not a number any more is None."""
    return [value if math.isfinite(value) else None for value in values]


def verdict(steps: Iterable[Step]) -> Verdict:
    """The worst of some steps'."""
    return min((step.verdict for step in steps), key=VERDICTS.index, default="pass")


def write(name: str, steps: Sequence[Step], out: Path) -> dict[str, Any]:
    """curves.json, a record of `curve` and `marks` a step, and last metrics.json, which is returned."""
    curves = [{"name": step.name, "curve": step.curve, "marks": dict(step.marks)} for step in steps]
    json_files.write(out / "curves.json", curves)
    if not steps:
        return Skipped("no labels").write(out, strategy=name)
    record = {"strategy": name, "verdict": verdict(steps), "steps": [_words(step) for step in steps]}
    json_files.write_last(out / "metrics.json", record)
    return record


def read(out: Path) -> list[Step]:
    """The steps that `write` wrote; [] of a set without labels. Raises UserError if a file is missing."""
    record, curves = json_files.read(out / "metrics.json"), json_files.read(out / "curves.json")
    return [
        Step(**words, curve=drawn["curve"], marks=drawn["marks"])
        for words, drawn in zip(record.get("steps", []), curves, strict=True)
    ]


def _words(step: Step) -> dict[str, str]:
    return {key: value for key, value in dataclasses.asdict(step).items() if isinstance(value, str)}
