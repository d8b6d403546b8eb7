"""How many images of each class a strategy finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.manifest import Manifest
from pipeline.figures.records.strategies import Recall

Floats = NDArray[np.float64]


def recall_of(strategies: Mapping[str, Sequence[Mapping[str, Any]]], manifest: Manifest) -> Recall:
    """`strategies`: name -> its repeats, whose `class_recall` are in the order of the manifest's classes."""
    means, stds = zip(*(_over_repeats(repeats) for repeats in strategies.values()), strict=True)
    repeats = max(len(one) for one in strategies.values())
    tested = (manifest.splits[:repeats] == "test") & (manifest.targets >= 0)
    images = np.array([tested[:, manifest.targets == c].sum() / repeats for c in range(len(manifest.classes))])
    return Recall(tuple(manifest.classes), tuple(strategies), np.stack(means, axis=1), np.stack(stds, axis=1), images)


def _over_repeats(repeats: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
    """(k,) means and standard deviations of the values that are there."""
    columns = zip(*(r["class_recall"] for r in repeats), strict=True)
    found = [[value for value in column if value is not None] for column in columns]
    mean = np.array([np.mean(values) if values else math.nan for values in found])
    std = np.array([np.std(values, ddof=1) if len(values) > 1 else math.nan for values in found])
    return mean, std
