"""The advice against the strategies: what was advised beside the best of what was not, and whether noise tells them
apart.

Strategies are trained alike, so that they can be set against each other. A head on codes may have seen larger images,
and more of them: beside a strategy it stands with what differs, and proves nothing where something does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.metrics.significance import mcnemar_exact
from pipeline.report.runs import Run
from pipeline.report.section import count, number, percent, spread
from pipeline.report.tuned import Baseline, Tuned

Verdict = Literal["ahead", "noise", "close", "behind"]

VERDICTS: dict[Verdict, str] = {
    "ahead": "ahead by more than noise: the measurements agree",
    "noise": "a difference within noise: the measurements do not speak against the advice",
    "close": "behind by more than noise, but by no more than two points: the measurements agree",
    "behind": "behind by more than two points and more than noise: **the measurements do not agree**",
}
MOST_POINTS = 0.02


@dataclass(frozen=True)
class Side:
    """A strategy, or a head on codes: right or wrong by test image of the first split, its mean and standard deviation
    over `repeats` splits, the side of its images in pixels, and how many it learned from."""

    name: str
    correct: Mapping[str, bool]
    mean: float
    std: float
    repeats: int
    size: int
    images: int

    @classmethod
    def of_strategy(cls, one: Tuned) -> Side:
        first = one.repeats[0]
        mean, std = one.mean("accuracy"), one.std("accuracy")
        return cls(one.name, one.correct(), mean, std, len(one.repeats), one.size, first["n_train"])

    @classmethod
    def of_head(cls, run: Run, *, size: int, repeats: int) -> Side:
        """Over the first `repeats` splits, those that the strategies have too."""
        shown, own = run.predictions(run.repeats[0]["repeat"]), Baseline(run, run.repeats[:repeats])
        correct = dict(zip(shown.ids.tolist(), shown.correct.tolist(), strict=True))
        # A head was fitted again on train and val before it met the test images.
        images = own.repeats[0]["n_train"] + own.repeats[0]["n_val"]
        return cls(own.name, correct, own.mean("accuracy"), own.std("accuracy"), len(own.repeats), size, images)


@dataclass(frozen=True)
class Duel:
    """What was advised against another way, on the test images of the first split that both named a class of."""

    advised: Side
    other: Side

    def accuracies(self) -> tuple[float, float]:
        advised, other = self._both()
        return float(advised.mean()), float(other.mean())

    @property
    def lag(self) -> float:
        """Accuracy that the advised way lacks."""
        advised, other = self.accuracies()
        return other - advised

    @property
    def p(self) -> float:
        """Of McNemar's exact test."""
        return mcnemar_exact(*self._both())

    def verdict(self, alpha: float) -> Verdict:
        if self.p > alpha:
            return "noise"
        if self.lag <= 0:
            return "ahead"
        return "close" if self.lag <= MOST_POINTS else "behind"

    def differs(self) -> list[str]:
        """What else than the way of training was not the same, in words."""
        a, b = self.advised, self.other
        words = []
        if a.size != b.size:
            words.append(f"{a.name} saw images of {a.size} px, {b.name} of {b.size} px")
        if a.images != b.images:
            words.append(f"{a.name} learned from {count(a.images)} images, {b.name} from {count(b.images)}")
        return words

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        common = sorted(self.advised.correct.keys() & self.other.correct.keys())
        sides = (np.array([side.correct[i] for i in common], dtype=np.bool_) for side in (self.advised, self.other))
        return next(sides), next(sides)


@dataclass(frozen=True)
class Standing:
    """`alike`: the best of the advised strategies against the best of the others, None where one is missing;
    `codes`: the advised way against the other where one of them is the head on the advised codes, None without that
    head. `kinds`: those that were advised, in words; `trained`: whether a strategy of them was."""

    alike: Duel | None
    codes: Duel | None
    kinds: Sequence[str]
    trained: bool


def standing(record: Mapping[str, Any], tuned: Sequence[Tuned], head: Side | None) -> Standing | None:
    """None without strategies. `head`: the one on the advised codes."""
    if not tuned:
        return None
    own = [one for one in tuned if _is_advised(one, record)]
    others = [one for one in tuned if one not in own]
    best_own, best_other = (_best(group) for group in (own, others))
    alike = Duel(best_own, best_other) if best_own and best_other else None
    codes = None
    if head is not None:
        if record["transfer"] == "head":
            codes = Duel(head, best_other) if best_other else None
        else:
            codes = Duel(best_own, head) if best_own else None
    kinds = [_in_words(kind, record["from_layer"]) for kind in record["kinds"]]
    return Standing(alike, codes, kinds, bool(own))


def _is_advised(one: Tuned, record: Mapping[str, Any]) -> bool:
    """Of an advised kind; where layers are to be tuned, all of them or from the one that was named."""
    if one.kind not in record["kinds"]:
        return False
    return one.kind != "finetune" or one.settings["below"] in ("", record["from_layer"])


def _in_words(kind: str, from_layer: str | None) -> str:
    if kind != "finetune":
        return kind
    return f"finetune from {from_layer} or of all layers" if from_layer else "finetune of all layers"


def say(found: Standing, alpha: float) -> list[str]:
    """Sentences; what stands between two ** is to be stressed."""
    return [_of_strategies(found, alpha)] + ([_of_codes(found.codes, alpha)] if found.codes is not None else [])


def _of_strategies(found: Standing, alpha: float) -> str:
    kinds = " or ".join(found.kinds)
    if found.alike is None and found.trained:
        return f"All strategies that were trained are of the advised kind ({kinds}): there is none to set it against."
    if found.alike is None:
        return f"No strategy of the advised kind ({kinds}) was trained, so that they neither prove nor refute it."
    own, other = found.alike.advised, found.alike.other
    return (
        f"Of the strategies, which all had the same {count(own.images)} training images of {own.size} px, {own.name} "
        f"is the best of the advised kind ({kinds}) and {other.name} the best of the others. {_compared(found.alike)}: "
        f"{VERDICTS[found.alike.verdict(alpha)]}."
    )


def _of_codes(duel: Duel, alpha: float) -> str:
    differs = duel.differs()
    if not differs:
        return f"{_compared(duel)}: {VERDICTS[duel.verdict(alpha)]}."
    return (
        f"{_compared(duel)}. They were not measured alike: {'; '.join(differs)}. So this tells which did better here, "
        "not which way is the better one."
    )


def _compared(duel: Duel) -> str:
    advised, other = duel.accuracies()
    text = (
        f"On the test images of the first split {duel.advised.name} is right on {percent(advised)}, {duel.other.name} "
        f"on {percent(other)} (p {'< 0.001' if duel.p < 0.001 else f'= {number(duel.p, 3)}'} by McNemar's test"
    )
    if min(duel.advised.repeats, duel.other.repeats) > 1:
        means = [spread(side.mean, side.std) for side in (duel.advised, duel.other)]
        splits = " and ".join(dict.fromkeys(str(side.repeats) for side in (duel.advised, duel.other)))
        text += f"; over {splits} splits {means[0]} and {means[1]}"
    return f"{text})"


def _best(group: Sequence[Tuned]) -> Side | None:
    """By its mean accuracy; of equal ones the first."""
    return Side.of_strategy(max(group, key=lambda one: one.mean("accuracy"))) if group else None
