"""The advice, and how it stands against what was then measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.figures.records.values import Number

MOST_POINTS = 0.02

Verdict = Literal["ahead", "noise", "close", "behind"]


@dataclass(frozen=True)
class Outcome:
    """The advised codes against the best ones, both specs, by one head, on the test images of the first split.

    `lag`: accuracy that the advised ones lack; `p`: of McNemar's exact test. `means`: over all splits, advised and
    best there; the other splits' test images were among those that the advice was made from, unless test is given.
    """

    head: str
    advised: str
    best: str
    lag: float
    p: float
    means: tuple[float, float]

    def agrees(self, alpha: float) -> bool:
        """Within two points of the best, or within noise."""
        return self.lag <= MOST_POINTS or self.p > alpha


@dataclass(frozen=True)
class Side:
    """A strategy, or a head on codes: its mean accuracy and standard deviation over `repeats` splits, the side of its
    images in pixels, and how many it learned from."""

    name: str
    mean: float
    std: Number
    repeats: int
    size: int
    images: int


@dataclass(frozen=True)
class Duel:
    """What was advised against another way: `accuracies` of both on the test images of the first split that both named
    a class of, and `p` of McNemar's exact test on them."""

    advised: Side
    other: Side
    accuracies: tuple[float, float]
    p: float

    @property
    def lag(self) -> float:
        """Accuracy that the advised way lacks."""
        advised, other = self.accuracies
        return other - advised

    def verdict(self, alpha: float) -> Verdict:
        if self.p > alpha:
            return "noise"
        if self.lag <= 0:
            return "ahead"
        return "close" if self.lag <= MOST_POINTS else "behind"


@dataclass(frozen=True)
class Standing:
    """`alike`: the best of the advised strategies against the best of the others, None where one is missing;
    `codes`: the advised way against the other where one of them is the head on the advised codes, None without that
    head. `kinds`: those that were advised, in words; `trained`: whether a strategy of them was."""

    alike: Duel | None
    codes: Duel | None
    kinds: tuple[str, ...]
    trained: bool


@dataclass(frozen=True)
class Advice:
    """`record` is metrics.json of the stage; `measured`: spec -> test accuracy of the first split, by the head of
    `outcome`. `standing`: None without strategies."""

    record: Mapping[str, Any]
    outcome: Outcome | None
    measured: Mapping[str, float]
    standing: Standing | None
