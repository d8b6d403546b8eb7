"""Accuracy against what it costs: bytes a code, and the head's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS, Comparison, Run
from pipeline.report.section import Section, percent, percent_ticks, render, seconds, size
from pipeline.report.styles import legend, mark_class, mark_shape
from pipeline.report.svg import HALF, Chart, both_widths, log_span, share_span

Look = Callable[[Run], tuple[str, str]]  # class and shape of a run's mark


@dataclass(frozen=True)
class Cost:
    """What something costs, the name of that on an axis, and how its values are written."""

    of: Callable[[Run], float]
    title: str
    written: Callable[[float], str]


def head_s(run: Run) -> float:
    """Seconds to choose and fit the head and to answer for the test images, averaged over splits."""
    return run.mean("fit_s") + run.mean("predict_s")


BYTES = Cost(lambda run: run.bytes_per_code, "bytes a code", size)


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

    def look(run: Run) -> tuple[str, str]:
        return mark_class(figures, run), mark_shape(run)

    charts = [
        ("by size", "Bytes a code, on a log scale", chart(board, look, BYTES)),
        ("by time", "Time to fit the head and to answer for the test images, on a log scale",
         chart(board, look, Cost(head_s, "fit and predict", seconds))),
    ]  # fmt: skip
    gains = [run.mean(board.metric) for run in board.runs]
    by_size = set(pareto([run.bytes_per_code for run in board.runs], gains))
    by_time = set(pareto([head_s(run) for run in board.runs], gains))
    rows = [
        [r.spec.name, r.head, r.bytes_per_code, head_s(r), gains[i], int(i in by_size), int(i in by_time)]
        for i, r in enumerate(board.runs)
    ]
    header = ["spec", "head", "bytes_per_code", "head_s", board.metric, "front_bytes", "front_time"]
    if board.metric != "accuracy":  # `dvc plots` draws it, whatever heads were chosen by
        header.append("accuracy")
        rows = [[*row, r.mean("accuracy")] for row, r in zip(rows, board.runs, strict=True)]
    html = render("tradeoff.html", charts=charts, legend=legend(figures), metric=METRICS[board.metric].title)
    return Section("Cost", html, files={"plots/tradeoff.csv": csv_files.table(header, rows)})


def chart(board: Comparison, look: Look, cost: Cost) -> Markup:
    """The metric of `board` against a cost, on a log scale, with the Pareto front."""
    return both_widths(lambda width: _draw(board, width, look, cost), wide=HALF)


def _draw(board: Comparison, width: int, look: Look, cost: Cost) -> Markup:
    metric, runs = board.metric, board.runs
    costs, gains = [max(cost.of(r), 1e-6) for r in runs], [r.mean(metric) for r in runs]
    drawn = Chart.sized(width, log_span(costs), share_span(gains, margin=0.12), x_log=True)
    drawn.axes(
        cost.title, METRICS[metric].title, x_format=cost.written, y_format=percent_ticks(drawn.y.low, drawn.y.high)
    )
    front = pareto(costs, gains)
    # Nothing is better for the same money: the front is a staircase.
    steps = [(costs[front[0]], gains[front[0]])]
    for i in front[1:]:
        steps += [(costs[i], steps[-1][1]), (costs[i], gains[i])]
    drawn.line([*steps, (drawn.x.high, steps[-1][1])], "front")
    for i, run in enumerate(runs):
        title = f"{run.name}: {percent(gains[i])}, {cost.written(costs[i])}" + (", on the front" if i in front else "")
        class_, shape = look(run)
        drawn.dot(costs[i], gains[i], title, class_ + ("" if i in front else " faint"), shape=shape)
    taken = [drawn.box(c, g) for c, g in zip(costs, gains, strict=True)]
    for i in reversed(front):
        drawn.label(runs[i].name, costs[i], gains[i], taken)
    names = ", ".join(runs[i].name for i in front)
    return drawn.render(f"{METRICS[metric].title} against {cost.title}; on the front: {names}")
