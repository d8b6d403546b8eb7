"""Scaling by its definition, and moments that do not depend on the blocks."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.heads.scaling import Scaling


def test_l2_gives_rows_of_length_one_and_leaves_zeros() -> None:
    x = np.array([[3, 4], [0, 0], [6e4, 0]], dtype=np.float16)
    np.testing.assert_allclose(Scaling("l2").apply(x), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


def test_l2_of_float16_does_not_overflow() -> None:
    assert np.isfinite(Scaling("l2").apply(np.full((1, 8), 6e4, dtype=np.float16))).all()


def test_standardise_uses_the_training_rows_alone_and_makes_rows_of_mean_square_one() -> None:
    x = np.random.default_rng(0).gamma(2.0, 3.0, (500, 7)).astype(np.float32) + 100
    scaling = Scaling.fit("standardise", [x[:100], x[100:130], x[130:]])
    scaled = scaling.apply(x)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1 / np.sqrt(7), rtol=1e-4)
    np.testing.assert_allclose((scaled**2).sum(axis=1).mean(), 1, rtol=1e-4)
    np.testing.assert_allclose(scaling.apply(x[:1] + 1), (x[:1] + 1 - x.mean(0)) / x.std(0) / np.sqrt(7), atol=1e-3)


def test_a_constant_column_becomes_zero() -> None:
    x = np.array([[1, 0.1], [2, 0.1], [4, 0.1]], dtype=np.float32)
    scaled = Scaling.fit("standardise", [x]).apply(np.array([[1, 5]], dtype=np.float32))
    assert scaled[0, 1] == 0 and np.isfinite(scaled).all()


def test_apply_leaves_its_argument_alone() -> None:
    x = np.ones((2, 3), dtype=np.float32)
    Scaling("l2").apply(x)
    assert (x == 1).all()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="'zca' is unknown; allowed: l2, standardise, none"):
        Scaling("zca")
