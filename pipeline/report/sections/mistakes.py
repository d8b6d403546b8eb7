"""The mistakes that the best combination was surest of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.report.inputs import Inputs
from pipeline.report.section import Section, csv_text, number, percent, render

PICTURES, SIDE = 18, 96


@dataclass(frozen=True)
class Mistake:
    picture: str
    name: str
    true: str
    predicted: str
    sure: str


def build(inputs: Inputs) -> Section | None:
    board = inputs.comparison
    if board is None:
        return None
    # One split, so that every score is one model's.
    answer = board.best.predictions(board.best.repeats[0]["repeat"])
    wrong = np.flatnonzero(~answer.correct)
    of_predicted = answer.scores[wrong, answer.predicted[wrong]]
    of_true = answer.scores[wrong, answer.true[wrong]]
    order = np.argsort(of_true - of_predicted, kind="stable")
    classes, album = inputs.manifest.classes, inputs.album
    shown: list[Mistake] = []
    rows = []
    for at in order:
        i, row = int(wrong[at]), album.row_of[str(answer.ids[wrong[at]])]
        true, predicted = classes[answer.true[i]], classes[answer.predicted[i]]
        scores = float(of_predicted[at]), float(of_true[at])
        rows.append([str(answer.ids[i]), album.name(row), true, predicted, *scores])
        if len(shown) < PICTURES:
            sure = _sure(*scores, probabilities=answer.probabilities)
            shown.append(Mistake(album.thumbnail(row, SIDE), album.name(row), true, predicted, sure))
    html = render(
        "mistakes.html",
        best=board.best,
        mistakes=shown,
        wrong=len(wrong),
        tested=len(answer.true),
        probabilities=answer.probabilities,
        repeats=len(board.best.repeats),
        side=SIDE,
    )
    header = ["id", "path", "true", "predicted", "score_of_predicted", "score_of_true"]
    return Section("Surest mistakes", html, files={"mistakes.csv": csv_text(header, rows)})


def _sure(of_predicted: float, of_true: float, *, probabilities: bool) -> str:
    if probabilities:
        return f"{percent(of_predicted, 0)} against {percent(of_true, 0)}"
    return f"{number(of_predicted)} against {number(of_true)}"
