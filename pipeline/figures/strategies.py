"""Strategies beside heads on codes: what the source's weights were worth, and how many images of a class each finds."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.base import csv_files
from pipeline.figures.class_recall import recall_of
from pipeline.figures.computed import Computed
from pipeline.figures.finetuned import baselines
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.strategies import Baseline, Finetuned, Strategies
from pipeline.nets import backbone
from pipeline.strategies.gains import gains
from pipeline.strategies.outputs import CURVE_COLUMNS

# Heads on codes that stand beside the strategies.
HEADS = ("svm", "softmax")


def compute(inputs: Inputs) -> Computed | None:
    found = inputs.finetuned
    if not found:
        return None
    metric = inputs.params.selection
    heads = baselines(inputs.runs, HEADS, len(found[0].repeats))
    ranked: list[Finetuned | Baseline] = [*sorted(found, key=lambda one: -one.mean(metric)), *heads]
    ranked.sort(key=lambda one: -one.mean(metric))
    record = Strategies(
        tuned=found,
        heads=tuple(heads),
        recall=recall_of({one.name: one.repeats for one in ranked}, inputs.manifest),
        gains=_gains(found),
        convolutions=tuple(
            one.name for one in backbone.find(inputs.arch).layers() if one.kind == "conv" and not one.inner
        ),
    )
    metrics = {f"strategy_{metric}": {one.name: round(one.mean(metric), 6) for one in found}}
    return Computed(record, metrics, {"plots/strategy_curves.csv": curves_csv(found)})


def _gains(found: Sequence[Finetuned]) -> dict[str, dict[str, float]]:
    """What each other strategy that was trained gained over the first from random values."""
    scratch = next((one for one in found if one.kind == "scratch"), None)
    if scratch is None:
        return {}
    measured = {one.name: gains(one.curves, scratch.curves) for one in found if one is not scratch}
    return {name: values for name, values in measured.items() if values is not None}


def curves_csv(found: Sequence[Finetuned]) -> str:
    """Every strategy's curves in one table, without the rates, whose groups differ."""
    rows = [
        [one.name, repeat, *(row[column] for column in CURVE_COLUMNS)]
        for one in found
        for repeat, curve in enumerate(one.curves)
        for row in curve
    ]
    return csv_files.table(["strategy", "repeat", *CURVE_COLUMNS], rows)
