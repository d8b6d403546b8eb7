"""Accuracy against the depth of the layer."""

from __future__ import annotations

import math

from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS, Run
from pipeline.report.section import Section, percent, percent_ticks, render
from pipeline.report.styles import head_class, legend, mark_class, mark_shape
from pipeline.report.svg import WIDE, Chart, both_widths, share_span

DODGE = 7.0  # px between heads at one layer, so that their whiskers don't cover each other


def build(figures: Figures) -> Section | None:
    board = figures.comparison
    if board is None or len({run.spec.layer for run in board.runs}) < 2:
        return None
    html = render("depth.html", chart=both_widths(lambda width: _draw(figures, width)), legend=legend(figures))
    runs = sorted(board.runs, key=lambda r: figures.about.depth(r.spec))
    rows: list[list[object]] = [
        [figures.about.depth(r.spec), r.spec.layer, r.spec.pooling, r.head, r.mean(board.metric), r.std(board.metric)]
        for r in runs
    ]
    header = ["depth", "layer", "pooling", "head", board.metric, "std"]
    if board.metric != "accuracy":  # `dvc plots` draws it, whatever heads were chosen by
        header.append("accuracy")
        rows = [[*row, r.mean("accuracy")] for row, r in zip(rows, runs, strict=True)]
    return Section("Depth", html, files={"plots/depth.csv": csv_files.table(header, rows)})


def _draw(figures: Figures, width: int) -> Markup:
    board = figures.comparison
    assert board is not None
    metric = board.metric
    baseline = board.best.majority.get(metric)
    places = _places(figures)
    ends = [run.mean(metric) + side * _std(run, metric) for run in board.runs for side in (-1, 1)]
    low, high = share_span(ends)
    chart = Chart.sized(width, (-0.4, len(places) - 0.6), (low, high), bottom=74)
    chart.axes(
        "layer, in the order of the network",
        METRICS[metric].title,
        x_format=str,
        y_format=percent_ticks(chart.y.low, chart.y.high),
        x_ticks=[(place, layer) for layer, place in places.items()],
        tilt=True,
    )
    if baseline is not None and baseline > low:
        chart.level(baseline, "largest class")
    step = DODGE if width == WIDE else DODGE / 2
    for position, head in enumerate(figures.about.heads):
        shift = (position - (len(figures.about.heads) - 1) / 2) * step
        _draw_head(figures, chart, places, [r for r in board.runs if r.head == head], shift)
    return chart.render(f"{METRICS[metric].title} by layer for each head; the figures are in the table above")


def _places(figures: Figures) -> dict[str, int]:
    """layer -> place on the axis, for the layers between the first and the last used; `.pre` only where it is used."""
    used = {run.spec.layer for run in figures.runs}
    order = [name for name in figures.about.layer_order if not name.endswith(".pre") or name in used]
    first = min(order.index(layer) for layer in used)
    return {name: place for place, name in enumerate(order[first:])}


def _draw_head(figures: Figures, chart: Chart, places: dict[str, int], runs: list[Run], shift: float) -> None:
    metric = figures.about.selection
    poolings: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: places[run.spec.layer]):
        poolings.setdefault((run.spec.pooling, run.spec.suffix), []).append(run)
    for series in poolings.values():
        class_ = head_class(figures, series[0].head)
        if len(series) > 1:
            chart.line([(places[r.spec.layer], r.mean(metric)) for r in series], class_, shift=shift)
    for series in poolings.values():
        for run in series:
            place, mean, std = places[run.spec.layer], run.mean(metric), _std(run, metric)
            if std:
                chart.whisker(
                    place, max(mean - std, 0.0), min(mean + std, 1.0), head_class(figures, run.head), shift=shift
                )
            title = f"{run.name}: {percent(mean)}" + (f" ± {100 * std:.1f}" if std else "")
            chart.dot(place, mean, title, mark_class(figures, run), shape=mark_shape(run), shift=shift)


def _std(run: Run, metric: str) -> float:
    """0 without a spread."""
    std = run.std(metric)
    return 0.0 if math.isnan(std) else std
