"""The curves of each strategy: losses, accuracies and learning rates by epoch, and what they say in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.figures.records.strategies import Finetuned
from pipeline.report import lines
from pipeline.report.lines import Axis, Drawn, Series
from pipeline.report.section import percent, percent_ticks
from pipeline.report.svg import HALF, Chart, both_widths, share_span

# A group of the per-layer table, and the biases and norms of the same layers, which have the same rate.
_SUFFIX = " (biases and norms)"


def validation(found: Sequence[Finetuned], majority: float) -> Drawn | None:
    """Validation accuracy by epoch of every strategy that was trained, means over repeats; None without such."""
    series = {one.name: curve for one in found if (curve := one.mean_curve("val_accuracy"))}
    if not series:
        return None
    axis = Axis("validation accuracy", share=True, level=(majority, "largest class"))
    return lines.draw("Accuracy by epoch", series, axis)


def of_strategy(one: Finetuned) -> list[Drawn]:
    """Of repeat 0: loss, accuracy, and the rate of each group that was trained."""
    if not one.curves or not one.curves[0]:
        return []
    rates: dict[str, list[tuple[float, float]]] = {}
    for row in one.curves[0]:
        for group, rate in row["rates"].items():
            if not group.endswith(_SUFFIX):
                rates.setdefault(group, []).append((row["epoch"], rate))
    moving = {group: line for group, line in rates.items() if any(rate for _, rate in line)}
    plots: list[tuple[str, Series, Axis]] = [
        ("Loss", _columns(one, "loss"), Axis("loss")),
        ("Accuracy", _columns(one, "accuracy"), Axis("accuracy", share=True)),
        ("Learning rate", moving, Axis("learning rate at the epoch's end")),
    ]
    return [lines.draw(title, series, axis) for title, series, axis in plots if series]


@dataclass(frozen=True)
class Depth:
    """How much was frozen and what came of it, the least frozen first: (frozen convolutions, strategy)."""

    points: Sequence[tuple[int, Finetuned]]
    chart: Markup


def depth(found: Sequence[Finetuned], convolutions: Sequence[str], figure: str) -> Depth | None:
    """Test accuracy against the depth of freezing, where two strategies or more differ in nothing else.

    A strategy that freezes all of the network's `convolutions` has the deepest place.
    """
    plain = [one for one in found if not one.settings["table"]]
    partial = [one for one in plain if one.kind == "finetune"]
    groups = [
        [one for one in partial if _alike(one, other)]
        + [one for one in plain if one.kind == "frozen" and _augments(one) == _augments(other)]
        for other in partial
    ]
    if not groups:
        return None
    points = sorted(((_frozen(one, convolutions), one) for one in max(groups, key=len)), key=lambda p: p[0])
    if len({count for count, _ in points}) < 2:
        return None
    return Depth(points, both_widths(lambda width: _draw_depth(points, convolutions, figure, width), wide=HALF))


def _alike(one: Finetuned, other: Finetuned) -> bool:
    return _augments(one) == _augments(other) and bool(one.settings["multiple"] == other.settings["multiple"])


def _augments(one: Finetuned) -> set[str]:
    return set(one.settings["augment"])


def _frozen(one: Finetuned, convolutions: Sequence[str]) -> int:
    """Convolutions of the source that the strategy never trained, by its per-layer table."""
    return len(set(one.record["never_trained"]).intersection(convolutions))


def _draw_depth(
    points: Sequence[tuple[int, Finetuned]], convolutions: Sequence[str], figure: str, width: int
) -> Markup:
    values = [one.mean(figure) + side * _spread(one, figure) for _, one in points for side in (-1, 1)]
    low, high = share_span(values)
    chart = Chart.sized(width, (-0.5, len(convolutions) + 0.5), (low, high), ratio=0.6, bottom=74)
    ticks = {count: convolutions[count] if count < len(convolutions) else "head only" for count, _ in points}
    chart.axes(
        "first layer that was trained",
        "test accuracy",
        x_format=str,
        y_format=percent_ticks(low, high),
        x_ticks=[(float(count), name) for count, name in ticks.items()],
        tilt=True,
    )
    chart.line([(float(count), one.mean(figure)) for count, one in points], "c0")
    for count, one in points:
        spread = _spread(one, figure)
        if spread:
            chart.whisker(count, one.mean(figure) - spread, one.mean(figure) + spread, "c0")
        chart.dot(
            count, one.mean(figure), f"{one.name}: {percent(one.mean(figure))}, {count} convolutions frozen", "c0"
        )
    return chart.render("Test accuracy by the number of frozen convolutions; the figures are in the table")


def _spread(one: Finetuned, figure: str) -> float:
    std = one.std(figure)
    return 0.0 if math.isnan(std) else std


def _columns(one: Finetuned, figure: str) -> Series:
    """train and val -> points of repeat 0, without epochs that have no value."""
    sides = {
        words: [(row["epoch"], row[f"{side}_{figure}"]) for row in one.curves[0] if row[f"{side}_{figure}"] is not None]
        for side, words in (("train", "training"), ("val", "validation"))
    }
    return {words: line for words, line in sides.items() if line}
