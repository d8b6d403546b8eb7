"""Both tests by hand and against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.base.errors import UserError
from pipeline.metrics.significance import corrected_resampled_t_test, mcnemar_exact


def test_corrected_t_by_hand() -> None:
    # mean 0.02, variance 2.5e-4 (n - 1); (1/5 + 1/3) * 2.5e-4 = 1.3333e-4, so t = 0.02 / 0.011547 = sqrt(3).
    differences = np.array([0.0, 0.01, 0.02, 0.03, 0.04])
    found = corrected_resampled_t_test(differences, n_train=300, n_test=100)
    assert found == pytest.approx(2 * stats.t.sf(math.sqrt(3), 4))
    assert found == pytest.approx(0.1583, abs=2e-4)


def test_without_test_rows_it_is_students_t() -> None:
    d = np.random.default_rng(0).normal(0.3, 1, 8)
    assert corrected_resampled_t_test(d, n_train=100, n_test=0) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)


@pytest.mark.parametrize(("splits", "n_train", "n_test"), [(2, 10, 10), (5, 300, 100), (30, 900, 100)])
def test_the_corrected_t_is_students_with_the_variance_that_it_corrects(splits: int, n_train: int, n_test: int) -> None:
    d = np.random.default_rng(splits).normal(0.02, 0.05, splits)
    plain = stats.ttest_1samp(d, 0)
    corrected = plain.statistic * math.sqrt((1 / splits) / (1 / splits + n_test / n_train))
    found = corrected_resampled_t_test(d, n_train=n_train, n_test=n_test)
    assert found == pytest.approx(2 * stats.t.sf(abs(corrected), plain.df))


def test_equal_differences() -> None:
    assert corrected_resampled_t_test(np.zeros(5), n_train=3, n_test=1) == 1.0
    assert corrected_resampled_t_test(np.full(5, 0.1), n_train=3, n_test=1) == 0.0


def test_one_split_is_refused() -> None:
    with pytest.raises(UserError, match="a t-test over 1 split"):
        corrected_resampled_t_test(np.array([0.1]), n_train=3, n_test=1)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (1, 5, 14 / 64), (4, 4, 1.0)]
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True, False])
    b = np.array([False] * only_a + [True] * only_b + [True, False])
    assert mcnemar_exact(a, b) == pytest.approx(p)
    assert mcnemar_exact(b, a) == pytest.approx(p)


@pytest.mark.parametrize(("n", "seed"), [(3, 0), (20, 1), (300, 2), (5000, 3)])
def test_mcnemar_is_the_exact_binomial_test(n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.random((2, n)) < 0.7
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    assert mcnemar_exact(a, b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_answers_to_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        mcnemar_exact(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
