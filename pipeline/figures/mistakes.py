"""The mistakes that the best combination was surest of."""

from __future__ import annotations

import numpy as np

from pipeline.base import csv_files
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.answers import Mistake, Mistakes
from pipeline.figures.runs import predictions

PICTURES, SIDE = 18, 96


def compute(inputs: Inputs) -> Computed | None:
    board = inputs.comparison
    if board is None:
        return None
    # One split, so that every score is one model's.
    answer = predictions(inputs.root / "heads", board.best, board.best.repeats[0]["repeat"])
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
            shown.append(Mistake(album.picture(row, SIDE), true, predicted, *scores))
    header = ["id", "path", "true", "predicted", "score_of_predicted", "score_of_true"]
    return Computed(
        Mistakes(
            shown=tuple(shown),
            wrong=len(wrong),
            tested=len(answer.true),
            probabilities=answer.probabilities,
            repeats=len(board.best.repeats),
        ),
        tables={"mistakes.csv": csv_files.table(header, rows)},
    )
