"""The learning curve of the best combination: the metric of the selection against the number of training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.figures.records.answers import CurvePoint
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS, Comparison
from pipeline.report.section import Section, count, percent, percent_ticks, render
from pipeline.report.svg import WIDE, Chart, both_widths, share_span


def build(figures: Figures) -> Section | None:
    board, points = figures.comparison, figures.curve
    if board is None or points is None:
        return None
    best = board.best
    metric = board.metric
    steps = _steps(points, metric)
    gain = None if len(steps) < 2 else 100 * (steps[-1][1] - steps[-2][1])
    html = render(
        "curve.html",
        chart=both_widths(lambda width: _draw(board, points, width)),
        best=best,
        metric=METRICS[metric].title,
        repeats=len({p.repeat for p in points}),
        gain=gain,
        before=None if gain is None else count(steps[-2][0]),
        after=count(steps[-1][0]),
        unfinished=sum(bool(p.unfinished) for p in points),
        points=len(points),
    )
    rows = [[p.share, p.n_train, p.repeat, p.accuracy, p.mean_class_recall, p.macro_f1] for p in points]
    header = ["share", "n_train", "repeat", "accuracy", "mean_class_recall", "macro_f1"]
    files = {
        "learning_curve.csv": csv_files.table(header, rows),
        "plots/learning_curve.csv": csv_files.table(["n_train", metric, "std"], steps),
    }
    return Section("Learning curve", html, files=files)


def _steps(points: Sequence[CurvePoint], metric: str) -> list[tuple[float, float, float]]:
    """(training images, mean of `metric`, its standard deviation) of each share, rising, over splits."""
    steps = []
    for share in sorted({p.share for p in points}):
        same = [p for p in points if p.share == share]
        values = np.array([getattr(p, metric) for p in same])
        std = float(values.std(ddof=1)) if len(same) > 1 else 0.0
        steps.append((float(np.mean([p.n_train for p in same])), float(values.mean()), std))
    return steps


def _draw(board: Comparison, points: Sequence[CurvePoint], width: int) -> Markup:
    metric = board.metric
    steps = _steps(points, metric)
    sizes = [n for n, _, _ in steps]
    baseline = board.best.majority.get(metric)
    heights = [getattr(p, metric) for p in points] + [m + side * s for _, m, s in steps for side in (-1, 1)]
    low, high = share_span(heights)
    chart = Chart.sized(width, (0.0, sizes[-1] * 1.04), (low, high))
    chart.axes(
        "training images",
        METRICS[metric].title,
        x_format=count,
        y_format=percent_ticks(low, high),
        x_ticks=_apart([(n, count(n)) for n in sizes], chart, 52 if width == WIDE else 44),
    )
    if baseline is not None and baseline > low:
        chart.level(baseline, "largest class")
    chart.band([(n, max(mean - std, low), min(mean + std, high)) for n, mean, std in steps], "c0")
    for p in points:
        value = getattr(p, metric)
        chart.dot(p.n_train, value, f"split {p.repeat + 1}, {count(p.n_train)}: {percent(value)}", "c0 trace")
    chart.line([(n, mean) for n, mean, _ in steps], "c0")
    for n, mean, std in steps:
        chart.dot(n, mean, f"{count(n)} training images: {percent(mean)} ± {100 * std:.1f}", "c0")
    return chart.render(
        f"{METRICS[metric].title} by number of training images: "
        + ", ".join(f"{count(n)}: {percent(mean)}" for n, mean, _ in steps)
    )


def _apart(ticks: list[tuple[float, str]], chart: Chart, gap: int) -> list[tuple[float, str]]:
    """The ticks whose labels don't touch; the last one is kept."""
    kept = ticks[-1:]
    for tick in reversed(ticks[:-1]):
        if chart.x(kept[0][0]) - chart.x(tick[0]) >= gap:
            kept.insert(0, tick)
    return kept
