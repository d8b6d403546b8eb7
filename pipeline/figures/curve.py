"""The learning curve of the best combination: its head, fitted again on shares of the training images."""

from __future__ import annotations

from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.answers import CurvePoint
from pipeline.heads.curve import learning_curve


def compute(inputs: Inputs) -> Computed | None:
    board, shares = inputs.comparison, inputs.params.learning_curve
    if board is None or not shares:
        return None
    best = board.best
    points = learning_curve(
        inputs.codes[best.spec.name],
        inputs.manifest,
        inputs.heads_params,
        best.head,
        shares,
        settings=[next(iter(record["chosen"].values())) for record in best.repeats],
    )
    return Computed(tuple(CurvePoint(*point) for point in points))
