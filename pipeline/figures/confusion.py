"""The best combination's confusion matrix, and its worst confusions with the images that were confused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.base import csv_files
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.answers import Confused, Confusion
from pipeline.figures.runs import Predictions, predictions
from pipeline.metrics.classify import confusion

MOST_CLASSES = 100  # a matrix of more is cut down to WORST_CLASSES
WORST_CLASSES = 40
WORST_PAIRS, PICTURES, SIDE = 9, 5, 72


def compute(inputs: Inputs) -> Computed | None:
    board = inputs.comparison
    if board is None:
        return None
    answers = [predictions(inputs.root / "heads", board.best, r["repeat"]) for r in board.best.repeats]
    classes = inputs.manifest.classes
    true = np.concatenate([a.true for a in answers])
    predicted = np.concatenate([a.predicted for a in answers])
    matrix = confusion(true, predicted, len(classes))
    shown, totals = _shown(matrix), matrix.sum(axis=1)
    found = Confusion(
        names=tuple(classes[i] for i in shown),
        matrix=tuple(map(tuple, matrix[np.ix_(shown, shown)].tolist())),
        totals=tuple(totals[shown].tolist()),
        repeats=len(answers),
        answers=len(true),
        pairs=tuple(_pair(inputs, answers, matrix, t, p) for t, p in worst_pairs(matrix, WORST_PAIRS)),
    )
    rows = [
        [classes[t], classes[p], int(matrix[t, p]), matrix[t, p] / totals[t]]
        for t, p in worst_pairs(matrix, matrix.size)
    ]
    named = np.array(classes, dtype=object)
    tables = {
        "confusions.csv": csv_files.table(["true", "predicted", "times", "share_of_true"], rows),
        "plots/confusion.csv": csv_files.table(
            ["actual", "predicted"], zip(named[true], named[predicted], strict=True)
        ),
    }
    return Computed(found, tables=tables)


def worst_pairs(matrix: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """The (true, predicted) cells off the diagonal with the most images, then by class order."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    cells = [(int(i) // len(off), int(i) % len(off)) for i in order]
    return [(t, p) for t, p in cells if off[t, p] > 0]


def _shown(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes of the matrix that is drawn: all, or those with the most errors made of or for them, in order."""
    k = len(matrix)
    if k <= MOST_CLASSES:
        return np.arange(k)
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    return np.sort(np.argsort(-errors, kind="stable")[:WORST_CLASSES])


def _pair(inputs: Inputs, answers: list[Predictions], matrix: NDArray[np.int64], true: int, predicted: int) -> Confused:
    """With the images that were confused, each once, the surest errors of the earliest split first."""
    album = inputs.album
    seen: dict[str, None] = {}
    for answer in answers:
        found = np.flatnonzero((answer.true == true) & (answer.predicted == predicted))
        sure = np.argsort(-(answer.scores[found, predicted] - answer.scores[found, true]), kind="stable")
        seen |= {str(image_id): None for image_id in answer.ids[found[sure]] if str(image_id) not in seen}
    rows = [album.row_of[image_id] for image_id in list(seen)[:PICTURES]]
    classes = inputs.manifest.classes
    return Confused(
        true=classes[true],
        predicted=classes[predicted],
        times=int(matrix[true, predicted]),
        share=float(matrix[true, predicted] / matrix[true].sum()),
        pictures=tuple(album.picture(row, SIDE) for row in rows),
    )
