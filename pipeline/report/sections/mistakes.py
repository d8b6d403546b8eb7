"""The mistakes that the best combination was surest of."""

from __future__ import annotations

from pipeline.figures.records.files import Figures
from pipeline.report.section import Section, number, percent, render

SIDE = 96  # px of a picture


def build(figures: Figures) -> Section | None:
    board, found = figures.comparison, figures.mistakes
    if board is None or found is None:
        return None
    html = render(
        "mistakes.html",
        best=board.best,
        mistakes=[
            (
                one,
                figures.uri(one.picture.thumbnail),
                _sure(one.of_predicted, one.of_true, probabilities=found.probabilities),
            )
            for one in found.shown
        ],
        wrong=found.wrong,
        tested=found.tested,
        probabilities=found.probabilities,
        repeats=found.repeats,
        side=SIDE,
    )
    return Section("Surest mistakes", html)


def _sure(of_predicted: float, of_true: float, *, probabilities: bool) -> str:
    if probabilities:
        return f"{percent(of_predicted, 0)} against {percent(of_true, 0)}"
    return f"{number(of_predicted)} against {number(of_true)}"
