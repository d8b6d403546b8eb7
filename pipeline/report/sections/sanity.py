"""The procedure for choosing hyperparameters: each step's verdict, what it saw, what to try, and its curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.figures.records.files import Figures
from pipeline.figures.records.training import Checked, Panel, Step
from pipeline.report import lines
from pipeline.report.section import Section, percent_ticks, render
from pipeline.report.svg import HALF, Chart, both_widths, log_span, share_span, span

# A verdict is a word and a mark, never a colour alone.
SIGNS = {"pass": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True)
class Drawn:
    step: Step
    sign: str
    chart: Markup | None
    legend: list[tuple[Markup, str]]


def build(figures: Figures) -> Section | None:
    found = figures.sanity
    if found is None:
        return None
    html = render(
        "sanity.html",
        strategies=[(one.strategy, one.verdict, [_drawn(step) for step in one.steps]) for one in found],
        advice=[(one.strategy, step) for one in found for step in one.steps if step.advice],
    )
    rows = [[one.strategy, s.name, s.verdict, s.seen, s.advice] for one in found for s in one.steps]
    files = {
        "sanity.csv": csv_files.table(["strategy", "step", "verdict", "seen", "advice"], rows),
        "plots/sanity.csv": csv_files.table(["strategy", "step", "column", "row", "value"], _values(found)),
    }
    return Section("Sanity of training", html, files=files)


def _values(found: Sequence[Checked]) -> list[list[object]]:
    return [
        [one.strategy, step.name, column, row, value]
        for one in found
        for step in one.steps
        for column, values in step.curve.items()
        for row, value in enumerate(values)
    ]


def _drawn(step: Step) -> Drawn:
    shown = step.panel
    if shown is None:
        return Drawn(step, SIGNS[step.verdict], None, [])
    chart = both_widths(partial(_draw, shown), wide=HALF)
    return Drawn(step, SIGNS[step.verdict], chart, lines.legend(shown.series))


def _draw(shown: Panel, width: int) -> Markup:
    points = [p for line in shown.series.values() for p in line]
    xs, ys = [x for x, _ in points], [y for _, y in points] + ([shown.level[0]] if shown.level else [])
    low, high = share_span(ys) if shown.share else span(ys)
    chart = Chart.sized(width, log_span(xs) if shown.log else _whole(xs), (low, high), ratio=0.6, x_log=shown.log)
    y_format = percent_ticks(low, high) if shown.share else "{:.3g}".format
    ticks = None if shown.log else _ticks(xs, width)
    chart.axes(shown.x_title, shown.y_title, x_format="{:.2g}".format, y_format=y_format, x_ticks=ticks)
    if shown.level is not None:
        chart.level(*shown.level)
    for i, (name, line) in enumerate(shown.series.items()):
        look = lines.look(i)
        if len(line) > 1:
            chart.line(line, look)
        if len(line) < 12:
            for x, y in line:
                chart.dot(x, y, f"{name}: {y:.3g} at {shown.x_title} {x:.2g}", look)
    if shown.spot is not None:
        (x, y), words = shown.spot
        chart.dot(x, y, f"{shown.x_title} {words}", "ink", shape="diamond")
        chart.label(words, x, y, [])
    return chart.render(f"{shown.y_title} by {shown.x_title}: {', '.join(shown.series)}")


def _whole(xs: Sequence[float]) -> tuple[float, float]:
    """From the first to the last of numbers that count; a little to either side of a single one."""
    return (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, max(xs) + 0.5)


def _ticks(xs: Sequence[float], width: int) -> list[tuple[float, str]]:
    step = max(1, math.ceil((max(xs) - min(xs)) / (width // 80)))
    return [(float(x), str(x)) for x in range(int(min(xs)), int(max(xs)) + 1, step)]
