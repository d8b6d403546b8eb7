"""The closed form against fits that really leave the fold out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.advice.least_squares import RIDGES, held_out
from pipeline.heads.base import Targets
from tests.heads.world import blobs


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("n", "d"), [(60, 8), (40, 90), (100, 90)])
def test_answers_are_those_of_fits_without_the_fold(n: int, d: int, balanced: bool) -> None:
    x, y = blobs(n, d, 3, apart=0.5)
    y = np.where(np.arange(n) % 4 == 0, 0, y)  # classes of different sizes
    folds = np.stack([np.arange(n) % 5, np.arange(n) // 3 % 5])
    folds[0, :3] = -1
    targets = Targets(y, 3, balanced)
    answers = held_out(x, targets, folds)
    assert answers.shape == (len(RIDGES), 2, n) and (answers[:, 0, :3] == -1).all()
    root = np.sqrt(targets.class_weights()[y])[:, None]
    wide = np.concatenate([x, np.ones((n, 1))], axis=1) * root
    signs = np.where(y[:, None] == np.arange(3), 1.0, -1.0) * root
    unit = (wide**2).sum() / n
    for (number, ridge), deal, held in itertools.product(enumerate(RIDGES), range(2), range(5)):
        train, test = folds[deal] != held, folds[deal] == held
        a, b = wide[train], signs[train]
        fitted = np.linalg.solve(a.T @ a + ridge * unit * np.eye(d + 1), a.T @ b)
        wanted = (np.concatenate([x, np.ones((n, 1))], axis=1)[test] @ fitted).argmax(axis=1)
        assert np.array_equal(answers[number, deal, test], wanted)
