"""The learning curve of the best combination: its head, fitted again on shares of the training images."""

from __future__ import annotations

from pipeline.base import stopping, unfinished
from pipeline.base.cache import cache_root
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.answers import CurvePoint
from pipeline.heads.curve import learning_curve
from pipeline.heads.run import what_decides


def compute(inputs: Inputs) -> Computed | None:
    board, shares = inputs.comparison, inputs.params.learning_curve
    if board is None or not shares:
        return None
    best = board.best
    codes, settings = inputs.codes[best.spec.name], [next(iter(record["chosen"].values())) for record in best.repeats]
    decides = what_decides(codes, inputs.manifest, inputs.heads_params)
    about = {"kind": "curve", "head": best.head, "shares": list(shares), "settings": settings, **decides}

    def kept() -> str:
        return f"of the learning curve what was found is kept; {stopping.GOES_ON}" if so_far.written else ""

    with unfinished.of(cache_root(), about) as so_far, stopping.says(kept):
        points = learning_curve(
            codes, inputs.manifest, inputs.heads_params, best.head, shares, settings=settings, so_far=so_far
        )
    return Computed(tuple(CurvePoint(*point) for point in points))
