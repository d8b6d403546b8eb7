"""Lines by epoch: one chart of several named series, and its legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from pipeline.report.section import percent_ticks
from pipeline.report.svg import HALF, Chart, Point, both_widths, share_span, span, swatch

# Classes c0 to c5 differ in colour and in dashes; further lines are thinner ones of the same.
LOOKS = 6
# name -> (epoch, value) points, the first epoch first.
Series = Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Axis:
    """Of the values. `share`: they are shares of 1. `level`: one to draw dashed, and its name."""

    title: str
    share: bool = False
    level: tuple[float, str] | None = None


@dataclass(frozen=True)
class Drawn:
    """A chart as `plots.html` shows it."""

    title: str
    chart: Markup
    legend: list[tuple[Markup, str]]
    caption: str = ""


def draw(title: str, series: Series, axis: Axis, caption: str = "") -> Drawn:
    """Lines by epoch, of which one with a single point is a dot."""
    return Drawn(title, both_widths(partial(_draw, series, axis), wide=HALF), legend(series), caption)


def legend(series: Series) -> list[tuple[Markup, str]]:
    """(sample, name) of each line; [] of a single one, which needs none."""
    return [(swatch(look(i)), name) for i, name in enumerate(series)] if len(series) > 1 else []


def look(position: int) -> str:
    """The classes of the line at a position of its chart."""
    return f"c{position % LOOKS}" + (" thin" if position // LOOKS % 2 else "")


def _draw(series: Series, axis: Axis, width: int) -> Markup:
    points = [p for line in series.values() for p in line]
    values = [value for _, value in points] + ([axis.level[0]] if axis.level else [])
    last = max(epoch for epoch, _ in points)
    first = min(1.0, last - 1)
    low, high = share_span(values) if axis.share else span(values)
    chart = Chart.sized(width, (first, last), (low, high), ratio=0.6)
    # Whole epochs only.
    step = math.ceil((last - first) / (width // 80))
    ticks = [(float(epoch), str(epoch)) for epoch in range(math.ceil(first), int(last) + 1, step)]
    y_format = percent_ticks(low, high) if axis.share else "{:.3g}".format
    chart.axes("epoch", axis.title, x_format=str, y_format=y_format, x_ticks=ticks)
    if axis.level:
        chart.level(*axis.level)
    for i, line in enumerate(series.values()):
        if len(line) > 1:
            chart.line(line, look(i))
        else:
            chart.dot(*line[0], f"epoch {line[0][0]:.0f}", look(i))
    return chart.render(f"{axis.title} by epoch: {', '.join(series)}")
