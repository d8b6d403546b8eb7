"""The procedure for choosing hyperparameters, and a tuned network beside its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.strategies.sanity.panel import Panel

__all__ = ["Checked", "Pair", "Panel", "Step", "TunedNetwork"]

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Step:
    """`seen` and `advice` are sentences, the second empty where nothing is to be done. `curve`: column -> values;
    `panel`: what to draw of them, None where there is nothing."""

    name: str
    verdict: Verdict
    seen: str
    advice: str
    curve: Mapping[str, Sequence[float | None]]
    panel: Panel | None


@dataclass(frozen=True)
class Checked:
    """A strategy's steps and the worst of their verdicts."""

    strategy: str
    verdict: Verdict
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Pair:
    """A figure of the source and of the tuned network, None where one has none; `p` of McNemar's exact test."""

    what: str
    figure: str
    source: float | None
    tuned: float | None
    p: float | None = None

    @property
    def gain(self) -> float | None:
        return None if self.source is None or self.tuned is None else self.tuned - self.source


@dataclass(frozen=True)
class TunedNetwork:
    """`record` is metrics.json; `heads`: whose head on which codes, and its repeats."""

    record: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    heads: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...]
