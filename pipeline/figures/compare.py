"""Which combination is best, and which others can't be told from it.

Differences over at least MIN_REPEATS random splits go through the corrected resampled t-test (Nadeau and Bengio 2003),
which allows for training sets that overlap. On one fixed test set McNemar's exact test compares the answers image by
image. Otherwise nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.base.errors import UserError
from pipeline.figures.records.runs import Comparison, Run, Test, Verdict
from pipeline.figures.runs import predictions
from pipeline.metrics.significance import corrected_resampled_t_test, mcnemar_exact

MIN_REPEATS = 5


def compare(runs: Sequence[Run], folder: Path, *, metric: str, alpha: float) -> Comparison:
    """The best mean of `metric`, and the others' verdicts against it. `folder` has all heads' predictions.

    Of equal means the smaller code wins, then the first.
    """
    place = max(range(len(runs)), key=lambda i: (runs[i].mean(metric), -runs[i].bytes_per_code))
    best = runs[place]
    test = _test_for(best, folder)
    verdicts: list[Verdict] = []
    ps: list[float | None] = []
    for run in runs:
        p = None if run is best else _p_value(best, run, folder, metric=metric, test=test)
        ps.append(p)
        if run is best:
            verdicts.append("best")
        elif p is None:
            verdicts.append("unknown")
        else:
            verdicts.append("noise" if p >= alpha else "behind")
    return Comparison(tuple(runs), place, metric, alpha, test, tuple(verdicts), tuple(ps))


def _test_for(run: Run, folder: Path) -> Test:
    first = predictions(folder, run, run.repeats[0]["repeat"]).ids
    fixed = all(np.array_equal(first, predictions(folder, run, r["repeat"]).ids) for r in run.repeats[1:])
    if fixed:
        return "mcnemar"
    return "t" if len(run.repeats) >= MIN_REPEATS else "none"


def _p_value(best: Run, run: Run, folder: Path, *, metric: str, test: Test) -> float | None:
    if test == "none":
        return None
    if [r["repeat"] for r in best.repeats] != [r["repeat"] for r in run.repeats]:
        raise UserError(f"{run.name} and {best.name} have other repeats", see="`dvc repro heads`")
    if test == "t":
        # The head was refitted on train + val before it met the test images.
        sizes = [(r["n_train"] + r["n_val"], r["n_test"]) for r in best.repeats]
        n_train, n_test = (round(float(np.mean(side))) for side in zip(*sizes, strict=True))
        return corrected_resampled_t_test(best.values(metric) - run.values(metric), n_train=n_train, n_test=n_test)
    repeat = best.repeats[0]["repeat"]
    ours, theirs = (predictions(folder, one, repeat) for one in (best, run))
    if not np.array_equal(ours.ids, theirs.ids):
        raise UserError(f"{run.name} and {best.name} were tested on other images", see="`dvc repro heads`")
    return mcnemar_exact(ours.correct, theirs.correct)
