"""The procedure for choosing hyperparameters: each step's verdict, what it saw, what to try, and its curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from pipeline.finetune.sanity.panel import Panel, panel
from pipeline.finetune.sanity.step import Step, verdict
from pipeline.report import lines
from pipeline.report.inputs import Inputs
from pipeline.report.section import Section, csv_text, percent_ticks, render
from pipeline.report.svg import HALF, Chart, both_widths, log_span, share_span, span

# A verdict is a word and a mark, never a colour alone.
SIGNS = {"pass": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True)
class Drawn:
    step: Step
    sign: str
    chart: Markup | None
    legend: list[tuple[Markup, str]]


def build(inputs: Inputs) -> Section | None:
    found = {name: steps for name, steps in inputs.sanity.items() if steps}
    if not found:
        return None
    html = render(
        "sanity.html",
        strategies=[(name, verdict(steps), [_drawn(step) for step in steps]) for name, steps in found.items()],
        advice=[(name, step) for name, steps in found.items() for step in steps if step.advice],
    )
    rows = [[name, s.name, s.verdict, s.seen, s.advice] for name, steps in found.items() for s in steps]
    files = {
        "sanity.csv": csv_text(["strategy", "step", "verdict", "seen", "advice"], rows),
        "plots/sanity.csv": csv_text(["strategy", "step", "column", "row", "value"], _values(found)),
    }
    metrics = {"sanity": {name: verdict(steps) for name, steps in found.items()}}
    return Section("Sanity of training", html, files=files, metrics=metrics)


def _values(found: Mapping[str, Sequence[Step]]) -> list[list[object]]:
    return [
        [name, step.name, column, row, value]
        for name, steps in found.items()
        for step in steps
        for column, values in step.curve.items()
        for row, value in enumerate(values)
    ]


def _drawn(step: Step) -> Drawn:
    shown = panel(step)
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
