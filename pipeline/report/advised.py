"""The advice against the strategies in sentences: what was advised beside the best of what was not."""

from __future__ import annotations

from pipeline.figures.records.advice import Duel, Standing, Verdict
from pipeline.report.section import count, number, percent, spread

VERDICTS: dict[Verdict, str] = {
    "ahead": "ahead by more than noise: the measurements agree",
    "noise": "a difference within noise: the measurements do not speak against the advice",
    "close": "behind by more than noise, but by no more than two points: the measurements agree",
    "behind": "behind by more than two points and more than noise: **the measurements do not agree**",
}


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
        f"Among the strategies, which all had the same {count(own.images)} training images of {own.size} px, "
        f"{own.name} is the best of the advised kind ({kinds}) and {other.name} the best of the others. "
        f"{_compared(found.alike)}: {VERDICTS[found.alike.verdict(alpha)]}."
    )


def _of_codes(duel: Duel, alpha: float) -> str:
    differs = _differs(duel)
    if not differs:
        return f"{_compared(duel)}: {VERDICTS[duel.verdict(alpha)]}."
    return (
        f"{_compared(duel)}. They were not measured alike: {'; '.join(differs)}. So this tells which did better here, "
        "not which way is the better one."
    )


def _differs(duel: Duel) -> list[str]:
    """What else than the way of training was not the same, in words."""
    a, b = duel.advised, duel.other
    words = []
    if a.size != b.size:
        words.append(f"{a.name} saw images of {a.size} px, {b.name} of {b.size} px")
    if a.images != b.images:
        words.append(f"{a.name} learned from {count(a.images)} images, {b.name} from {count(b.images)}")
    return words


def _compared(duel: Duel) -> str:
    advised, other = duel.accuracies
    text = (
        f"On the test images of the first split {duel.advised.name} is right on {percent(advised)}, {duel.other.name} "
        f"on {percent(other)} (p {'< 0.001' if duel.p < 0.001 else f'= {number(duel.p, 3)}'} by McNemar's test"
    )
    if min(duel.advised.repeats, duel.other.repeats) > 1:
        means = [spread(side.mean, side.std) for side in (duel.advised, duel.other)]
        splits = " and ".join(dict.fromkeys(str(side.repeats) for side in (duel.advised, duel.other)))
        text += f"; over {splits} splits {means[0]} and {means[1]}"
    return f"{text})"
