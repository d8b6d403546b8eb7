"""Heads on codes, as measured, and which of them can be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.config import LayerSpec

Test = Literal["t", "mcnemar", "none"]
Verdict = Literal["best", "noise", "behind", "unknown"]


@dataclass(frozen=True)
class Metric:
    """How a figure of metrics.json is named and shown."""

    title: str
    unit: str  # share (0..1, shown in percent) | nats | s
    higher_is_better: bool = True


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", "share"),
    "mean_class_recall": Metric("mean class recall", "share"),
    "top5": Metric("top-5 accuracy", "share"),
    "macro_f1": Metric("macro F1", "share"),
    "log_loss": Metric("log loss", "nats", higher_is_better=False),
    "fit_s": Metric("fit", "s", higher_is_better=False),
    "predict_s": Metric("predict", "s", higher_is_better=False),
}


@dataclass(frozen=True)
class Run:
    """One combination of codes and head. `repeats` are the records of metrics.json, in order. `network`: the name of
    the one that the codes are of, where several are compared; else "".
    """

    spec: LayerSpec
    head: str
    dim: int
    bytes_per_code: float
    repeats: tuple[Mapping[str, Any], ...]
    majority: Mapping[str, float]
    network: str = ""

    @property
    def codes(self) -> str:
        """The name of its codes: `SPEC`, or `NETWORK.SPEC`."""
        return f"{self.network}.{self.spec.name}" if self.network else self.spec.name

    @property
    def name(self) -> str:
        return f"{self.codes} + {self.head}"

    @property
    def first_accuracy(self) -> float:
        """On the test images of the first split."""
        return float(self.repeats[0]["accuracy"])

    def values(self, metric: str) -> NDArray[np.float64]:
        """(repeats,) a metric; NaN where the head has none."""
        found = [r.get(metric) for r in self.repeats]
        return np.array([math.nan if v is None else v for v in found], dtype=np.float64)

    def mean(self, metric: str) -> float:
        return float(self.values(metric).mean())

    def std(self, metric: str) -> float:
        """Standard deviation over repeats (n - 1); NaN with one repeat."""
        values = self.values(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """`runs[i]` has `verdicts[i]` against the best, `runs[place]`, from the two-sided `p[i]` (None where there is no
    test)."""

    runs: tuple[Run, ...]
    place: int
    metric: str
    alpha: float
    test: Test
    verdicts: tuple[Verdict, ...]
    p: tuple[float | None, ...]

    @property
    def best(self) -> Run:
        return self.runs[self.place]

    @property
    def within_noise(self) -> tuple[Run, ...]:
        """Best first."""
        tied = [r for r, v in zip(self.runs, self.verdicts, strict=True) if v == "noise"]
        return tuple(sorted(tied, key=lambda r: -r.mean(self.metric)))

    def verdict(self, run: Run) -> Verdict:
        return self.verdicts[self.runs.index(run)]
