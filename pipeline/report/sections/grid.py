"""The table of layers and heads, with what is within noise of the best."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS, Comparison, Run
from pipeline.report.notes import sentences
from pipeline.report.section import Section, number, render

MARKS = {"best": "best", "noise": "≈", "behind": "", "unknown": ""}
SPOKEN = {"best": "", "noise": "within noise of the best", "behind": "", "unknown": ""}

TESTS = {
    "t": "the corrected resampled t-test (Nadeau and Bengio 2003) over {repeats} random splits",
    "mcnemar": "McNemar's exact test, image by image on the one test set, of which answers are right",
    "none": "",
}


@dataclass(frozen=True)
class Cell:
    mean: str
    std: str
    shade: float  # 0 (the table's lowest) .. 1 (its highest)
    verdict: str
    mark: str
    spoken: str
    tip: str


def build(figures: Figures) -> Section | None:
    board = figures.comparison
    if board is None:
        return None
    found = {(run.spec.name, run.head): run for run in board.runs}
    rows = []
    about = figures.about
    for codes in about.codes:
        spec, facts = codes.spec.name, about.layer(codes.spec.layer)
        cells = [cell(board, found[spec, head]) for head in about.heads]
        rows.append((spec, facts, found[spec, about.heads[0]].dim, cells))
    baseline = board.best.majority.get(board.metric)
    html = render(
        "grid.html",
        heads=about.heads,
        rows=rows,
        sees=any(facts.receptive_field for _, facts, _, _ in rows),
        metric=METRICS[board.metric].title,
        baseline=None if baseline is None else number(100 * baseline, 1),
        test=TESTS[board.test].format(repeats=len(board.best.repeats)),
        board=board,
        repeats=len(board.best.repeats),
        notes=sentences((run.name, run.repeats) for run in board.runs),
    )
    return Section("Layers and heads", html)


def cell(board: Comparison, run: Run) -> Cell:
    means = [one.mean(board.metric) for one in board.runs]
    low, high = min(means), max(means)
    mean, std = run.mean(board.metric), run.std(board.metric)
    verdict = board.verdict(run)
    p = board.p[board.runs.index(run)]
    return Cell(
        mean=number(100 * mean, 1),
        std="" if len(run.repeats) == 1 else number(100 * std, 1),
        shade=0.0 if high == low else (mean - low) / (high - low),
        verdict=verdict,
        mark=MARKS[verdict],
        spoken=SPOKEN[verdict],
        tip="" if p is None else f"{run.name}: p = {p:.2g} against the best",
    )
