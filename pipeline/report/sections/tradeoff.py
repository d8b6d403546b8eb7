"""Accuracy against what it costs: bytes a code, and the head's time."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS, Run
from pipeline.report.section import Section, percent, percent_ticks, render, seconds, size
from pipeline.report.styles import legend, mark_class, mark_shape
from pipeline.report.svg import HALF, Chart, both_widths, log_span, share_span

Cost = Callable[[Run], float]


def head_s(run: Run) -> float:
    """Seconds to choose and fit the head and to answer for the test images, averaged over splits."""
    return run.mean("fit_s") + run.mean("predict_s")


def pareto(costs: list[float], gains: list[float]) -> list[int]:
    """The places that no other one beats: less cost with no less gain, or more gain for no more cost. Cheapest first.

    Of equal ones the first stays.
    """
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i], i)):
        if not front or gains[i] > gains[front[-1]]:
            front.append(i)
    return front


def build(figures: Figures) -> Section | None:
    board = figures.comparison
    if board is None or len(board.runs) < 2:
        return None
    charts = [
        ("by size", "Bytes a code, on a log scale", _chart(figures, lambda r: r.bytes_per_code, "bytes a code", size)),
        ("by time", "Time to fit the head and to answer for the test images, on a log scale",
         _chart(figures, head_s, "fit and predict", seconds)),
    ]  # fmt: skip
    gains = [run.mean(board.metric) for run in board.runs]
    by_size = set(pareto([run.bytes_per_code for run in board.runs], gains))
    by_time = set(pareto([head_s(run) for run in board.runs], gains))
    rows = [
        [r.spec.name, r.head, r.bytes_per_code, head_s(r), gains[i], int(i in by_size), int(i in by_time)]
        for i, r in enumerate(board.runs)
    ]
    header = ["spec", "head", "bytes_per_code", "head_s", board.metric, "front_bytes", "front_time"]
    html = render("tradeoff.html", charts=charts, legend=legend(figures), metric=METRICS[board.metric].title)
    return Section("Cost", html, files={"plots/tradeoff.csv": csv_files.table(header, rows)})


def _chart(figures: Figures, cost: Cost, x_title: str, x_format: Callable[[float], str]) -> Markup:
    return both_widths(lambda width: _draw(figures, width, cost, x_title, x_format), wide=HALF)


def _draw(figures: Figures, width: int, cost: Cost, x_title: str, x_format: Callable[[float], str]) -> Markup:
    board = figures.comparison
    assert board is not None
    metric, runs = board.metric, board.runs
    costs, gains = [max(cost(r), 1e-6) for r in runs], [r.mean(metric) for r in runs]
    chart = Chart.sized(width, log_span(costs), share_span(gains, margin=0.12), x_log=True)
    chart.axes(x_title, METRICS[metric].title, x_format=x_format, y_format=percent_ticks(chart.y.low, chart.y.high))
    front = pareto(costs, gains)
    # Nothing is better for the same money: the front is a staircase.
    steps = [(costs[front[0]], gains[front[0]])]
    for i in front[1:]:
        steps += [(costs[i], steps[-1][1]), (costs[i], gains[i])]
    chart.line([*steps, (chart.x.high, steps[-1][1])], "front")
    for i, run in enumerate(runs):
        title = f"{run.name}: {percent(gains[i])}, {x_format(costs[i])}" + (", on the front" if i in front else "")
        class_ = mark_class(figures, run) + ("" if i in front else " faint")
        chart.dot(costs[i], gains[i], title, class_, shape=mark_shape(run))
    taken = [chart.box(c, g) for c, g in zip(costs, gains, strict=True)]
    for i in reversed(front):
        chart.label(runs[i].name, costs[i], gains[i], taken)
    names = ", ".join(runs[i].name for i in front)
    return chart.render(f"{METRICS[metric].title} against {x_title}; on the front: {names}")
