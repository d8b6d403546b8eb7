"""How many images of each class a strategy finds: the hardest classes in a table, all of them in a CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.data.manifest import Manifest
from pipeline.report.section import NONE, csv_text, number, percent, render

MOST_CLASSES = 20  # rows of the table; of more classes the hardest are shown

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recall:
    """By class and strategy: `mean` and `std` (k, n) over the repeats in which a class has test images, NaN without
    such (`std` with n - 1, NaN of a single one); `images` (k,) test images of a class in a split."""

    classes: Sequence[str]
    strategies: Sequence[str]
    mean: Floats
    std: Floats
    images: Floats

    @property
    def hardest(self) -> list[int]:
        """Classes with a value, the lowest mean over the strategies first; of equal ones in class order."""
        there = [c for c, row in enumerate(self.mean) if not np.isnan(row).all()]
        return sorted(there, key=lambda c: float(np.nanmean(self.mean[c])))

    def lowest(self, strategy: str) -> tuple[str, float]:
        """The class that a strategy finds least often, and how often."""
        own = self.mean[:, self.strategies.index(strategy)]
        worst = int(np.nanargmin(own))
        return self.classes[worst], float(own[worst])


def recall_of(strategies: Mapping[str, Sequence[Mapping[str, Any]]], manifest: Manifest) -> Recall:
    """`strategies`: name -> its repeats, whose `class_recall` are in the order of the manifest's classes."""
    means, stds = zip(*(_over_repeats(repeats) for repeats in strategies.values()), strict=True)
    repeats = max(len(one) for one in strategies.values())
    tested = (manifest.splits[:repeats] == "test") & (manifest.targets >= 0)
    images = np.array([tested[:, manifest.targets == c].sum() / repeats for c in range(len(manifest.classes))])
    return Recall(manifest.classes, tuple(strategies), np.stack(means, axis=1), np.stack(stds, axis=1), images)


def _over_repeats(repeats: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
    """(k,) means and standard deviations of the values that are there."""
    columns = zip(*(r["class_recall"] for r in repeats), strict=True)
    found = [[value for value in column if value is not None] for column in columns]
    mean = np.array([np.mean(values) if values else math.nan for values in found])
    std = np.array([np.std(values, ddof=1) if len(values) > 1 else math.nan for values in found])
    return mean, std


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
    return csv_text(["class", "strategy", "recall", "recall_std", "repeats", "test_images"], lines)
