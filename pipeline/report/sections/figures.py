"""Every figure of every combination, to sort, and as CSV."""

from __future__ import annotations

import math

from pipeline.base import csv_files
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS, Run
from pipeline.report.section import Section, count, render, seconds, size, spread


def build(figures: Figures) -> Section | None:
    board = figures.comparison
    if board is None:
        return None
    shown = [m for m in METRICS if any(not math.isnan(run.mean(m)) for run in board.runs)]
    ranked = sorted(board.runs, key=lambda run: -run.mean(board.metric))
    rows = [_row(figures, run, shown) for run in ranked]
    titles = [METRICS[m].title for m in shown]
    html = render("figures.html", titles=titles, rows=rows, metric=METRICS[board.metric].title)
    return Section("All figures", html, files={"table.csv": _table(figures), "per_repeat.csv": _per_repeat(figures)})


def chosen(run: Run) -> str:
    """The setting that validation chose in each split, e.g. `C 1, 10`."""
    names = dict.fromkeys(name for repeat in run.repeats for name in repeat["chosen"])
    values = {name: sorted({repeat["chosen"][name] for repeat in run.repeats}) for name in names}
    return "; ".join(f"{name} " + ", ".join(f"{v:g}" for v in found) for name, found in values.items())


def _row(figures: Figures, run: Run, metrics: list[str]) -> list[tuple[str, object]]:
    """(text, sort key) of each cell."""
    cells: list[tuple[str, object]] = [(run.spec.name, figures.about.specs.index(run.spec.name)), (run.head, run.head)]
    for metric in metrics:
        mean, std = run.mean(metric), run.std(metric)
        unit = METRICS[metric].unit
        text = seconds(mean) if unit == "s" else spread(mean, std, share=unit == "share")
        cells.append((text, "" if math.isnan(mean) else mean))
    p = figures.comparison.p[figures.comparison.runs.index(run)] if figures.comparison else None
    return [
        *cells,
        (count(run.dim), run.dim),
        (size(run.bytes_per_code), run.bytes_per_code),
        (chosen(run), chosen(run)),
        ("–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001", 1.0 if p is None else p),
    ]


def _table(figures: Figures) -> str:
    board = figures.comparison
    assert board is not None
    head = ["spec", "layer", "pooling", "sigmoid", "l2", "head", "dim", "bytes_per_code", "repeats", "chosen"]
    head += [f"{m}_{part}" for m in METRICS for part in ("mean", "std")]
    rows = []
    for run, verdict, p in zip(board.runs, board.verdicts, board.p, strict=True):
        spec = run.spec
        row: list[object] = [spec.name, spec.layer, spec.pooling, int(spec.sigmoid), int(spec.l2), run.head]
        row += [run.dim, run.bytes_per_code, len(run.repeats), chosen(run)]
        row += [value for m in METRICS for value in (run.mean(m), run.std(m))]
        rows.append([*row, verdict, p])
    return csv_files.table([*head, "against_best", "p"], rows)


def _per_repeat(figures: Figures) -> str:
    sizes = ("repeat", "n_train", "n_val", "n_test")
    rows = [
        [run.spec.name, run.head, *(r[s] for s in sizes), setting_text(r["chosen"]), *(r.get(m) for m in METRICS)]
        for run in figures.runs
        for r in run.repeats
    ]
    return csv_files.table(["spec", "head", *sizes, "chosen", *METRICS], rows)


def setting_text(setting: dict[str, float]) -> str:
    """{"C": 1.0} -> C=1."""
    return " ".join(f"{name}={value:g}" for name, value in setting.items())
