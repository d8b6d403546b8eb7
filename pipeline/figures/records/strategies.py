"""Strategies as trained, and the heads on codes that stand beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.figures.records.runs import Run
from pipeline.figures.records.values import Array

Curve = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Finetuned:
    """`record` is metrics.json; `curves` has one curve a repeat, or none, whose rows are those of
    `strategies.outputs.read_curves`."""

    name: str
    record: Mapping[str, Any]
    curves: Sequence[Curve]

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


@dataclass(frozen=True)
class Baseline:
    """A linear head on the codes of the layer that did best on val, over the repeats that strategies have too."""

    run: Run
    repeats: tuple[Mapping[str, Any], ...]

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


@dataclass(frozen=True, eq=False)
class Recall:
    """By class and strategy: `mean` and `std` (k, n) over the repeats in which a class has test images, NaN without
    such (`std` with n - 1, NaN of a single one); `images` (k,) test images of a class in a split."""

    classes: tuple[str, ...]
    strategies: tuple[str, ...]
    mean: Array
    std: Array
    images: Array

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


@dataclass(frozen=True, eq=False)
class Strategies:
    """`tuned`: in the order of params.yaml. `recall`: of them and of `heads`, the best first. `gains`: of each other
    strategy that was trained, against `scratch`: start, slope, asymptote. `convolutions`: of the network, in order."""

    tuned: tuple[Finetuned, ...]
    heads: tuple[Baseline, ...]
    recall: Recall
    gains: Mapping[str, Mapping[str, float]]
    convolutions: tuple[str, ...]

    @property
    def scratch(self) -> Finetuned | None:
        """The first strategy that began from random values."""
        return next((one for one in self.tuned if one.kind == "scratch"), None)
