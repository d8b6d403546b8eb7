"""How many images of each class a strategy finds: the hardest classes in a table, all of them in a CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.figures.records.strategies import Recall
from pipeline.report.section import NONE, number, percent, render

MOST_CLASSES = 20  # rows of the table; of more classes the hardest are shown


def show(found: Recall, best: str, repeats: int) -> Markup:
    """The table, hardest classes first, and which classes the strategy `best` finds least and most often."""
    hardest = found.hardest
    shown = hardest[:MOST_CLASSES]
    own = found.mean[:, found.strategies.index(best)]
    worst, finest = int(np.nanargmin(own)), int(np.nanargmax(own))
    values = found.mean[shown]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return render(
        "class_recall.html",
        best=best,
        worst=found.classes[worst],
        worst_recall=percent(own[worst]),
        finest=found.classes[finest],
        finest_recall=percent(own[finest]),
        even=own[worst] == own[finest],
        strategies=found.strategies,
        classes=len(found.classes),
        shown=len(shown),
        cut=len(shown) < len(hardest),
        untested=len(found.classes) - len(hardest),
        repeats=repeats,
        rows=[
            (found.classes[c], found.images[c], [_cell(found, c, s, low, high) for s in range(values.shape[1])])
            for c in shown
        ],
        means=[number(100 * float(np.nanmean(column)), 1) for column in found.mean.T],
        lowest=[(number(100 * value, 1), name) for name, value in map(found.lowest, found.strategies)],
    )


def _cell(found: Recall, c: int, s: int, low: float, high: float) -> dict[str, object]:
    mean, std = float(found.mean[c, s]), float(found.std[c, s])
    if math.isnan(mean):
        return {"text": NONE, "spread": "", "key": "", "shade": 0.0}
    shade = 0.0 if high == low else (mean - low) / (high - low)
    spread = "" if math.isnan(std) else number(100 * std, 1)
    return {"text": number(100 * mean, 1), "spread": spread, "key": mean, "shade": shade}


def csv_of(found: Recall, repeats: Mapping[str, int]) -> str:
    """A line a class and strategy, in class order."""
    lines = [
        [name, strategy, float(found.mean[c, s]), float(found.std[c, s]), repeats[strategy], float(found.images[c])]
        for c, name in enumerate(found.classes)
        for s, strategy in enumerate(found.strategies)
    ]
    return csv_files.table(["class", "strategy", "recall", "recall_std", "repeats", "test_images"], lines)
