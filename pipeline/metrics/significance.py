"""Is a difference between two classifiers more than noise?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError


def corrected_resampled_t_test(differences: NDArray[np.floating[Any]], *, n_train: int, n_test: int) -> float:
    """Two-sided p of a zero mean difference over J random splits (Nadeau and Bengio 2003, section 4).

    t = mean / sqrt((1/J + n_test/n_train) var), var with J - 1, against Student's t of J - 1 degrees of freedom: the
    term n_test/n_train allows for training sets that overlap. All differences 0 give 1; all equal and not 0 give 0.
    Raises UserError with fewer than two splits.
    """
    from scipy.stats import t as student

    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        raise UserError(f"a t-test over {len(d)} split(s)", allowed="at least 2", see="dataset.repeats in params.yaml")
    mean, variance = float(d.mean()), float(d.var(ddof=1))
    # Equal differences can leave a variance of rounding errors.
    if variance <= (1e-12 * max(abs(mean), 1e-12)) ** 2:
        return 1.0 if mean == 0 else 0.0
    statistic = mean / np.sqrt((1 / len(d) + n_test / n_train) * variance)
    return float(2 * student.sf(abs(statistic), len(d) - 1))


def mcnemar_exact(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> float:
    """Two-sided p that A and B err equally often on one test set, from the rows that just one of them has right.

    Of b + c such rows, min(b, c) or fewer fall on one side with p = 1/2 each (exact binomial, doubled, at most 1).
    Raises ValueError on answers of different lengths.
    """
    from scipy.stats import binom

    if correct_a.shape != correct_b.shape:
        raise ValueError(f"answers of shapes {correct_a.shape} and {correct_b.shape}")
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    return float(min(1.0, 2 * binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))
