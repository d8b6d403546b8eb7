"""Which combination is best, and which others can't be told from it.

Differences over at least MIN_REPEATS random splits go through the corrected resampled t-test (Nadeau and Bengio 2003),
which allows for training sets that overlap. On one fixed test set McNemar's exact test compares the answers image by
image. Otherwise nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.metrics.significance import corrected_resampled_t_test, mcnemar_exact
from pipeline.report.runs import Run

MIN_REPEATS = 5

Test = Literal["t", "mcnemar", "none"]
Verdict = Literal["best", "noise", "behind", "unknown"]


@dataclass(frozen=True)
class Comparison:
    """`runs[i]` has `verdicts[i]` against `best`, from the two-sided `p[i]` (None where there is no test)."""

    runs: tuple[Run, ...]
    best: Run
    metric: str
    alpha: float
    test: Test
    verdicts: tuple[Verdict, ...]
    p: tuple[float | None, ...]

    @property
    def within_noise(self) -> tuple[Run, ...]:
        """Best first."""
        tied = [r for r, v in zip(self.runs, self.verdicts, strict=True) if v == "noise"]
        return tuple(sorted(tied, key=lambda r: -r.mean(self.metric)))

    def verdict(self, run: Run) -> Verdict:
        return self.verdicts[self.runs.index(run)]


def compare(runs: Sequence[Run], *, metric: str, alpha: float) -> Comparison:
    """The best mean of `metric`, and the others' verdicts against it.

    Of equal means the smaller code wins, then the first.
    """
    best = max(runs, key=lambda r: (r.mean(metric), -r.bytes_per_code))
    test = _test_for(best)
    verdicts: list[Verdict] = []
    ps: list[float | None] = []
    for run in runs:
        p = None if run is best else _p_value(best, run, metric=metric, test=test)
        ps.append(p)
        if run is best:
            verdicts.append("best")
        elif p is None:
            verdicts.append("unknown")
        else:
            verdicts.append("noise" if p >= alpha else "behind")
    return Comparison(tuple(runs), best, metric, alpha, test, tuple(verdicts), tuple(ps))


def _test_for(run: Run) -> Test:
    first = run.predictions(run.repeats[0]["repeat"]).ids
    fixed = all(np.array_equal(first, run.predictions(r["repeat"]).ids) for r in run.repeats[1:])
    if fixed:
        return "mcnemar"
    return "t" if len(run.repeats) >= MIN_REPEATS else "none"


def _p_value(best: Run, run: Run, *, metric: str, test: Test) -> float | None:
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
    ours, theirs = best.predictions(repeat), run.predictions(repeat)
    if not np.array_equal(ours.ids, theirs.ids):
        raise UserError(f"{run.name} and {best.name} were tested on other images", see="`dvc repro heads`")
    return mcnemar_exact(ours.correct, theirs.correct)
