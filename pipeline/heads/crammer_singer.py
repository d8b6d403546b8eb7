"""The multi-class SVM of Crammer and Singer (2001), by liblinear."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.heads.base import LinearHead, Targets
from pipeline.heads.newton import Span, space_of
from pipeline.heads.stream import Matrix

MAX_PASSES = 100_000  # liblinear's own limit, whatever scikit-learn passes on


class CrammerSinger(LinearHead):
    """Scores are those of the classes' weight vectors, trained together; the intercept is penalised.

    A large C can need more than liblinear's `MAX_PASSES`; how far that is from the optimum it does not tell.
    """

    @classmethod
    def fit(
        cls, rows: Matrix, targets: Targets, grid: Sequence[float], *, seed: int, so_far: SoFar = NOTHING
    ) -> list[Self]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        space = space_of(rows)
        features, back = _reduced(space.gram) if isinstance(space, Span) else (_augmented(rows), None)
        weight = dict(enumerate(targets.class_weights()))
        part_way = so_far.found()
        heads = cls.taken(part_way) if part_way is not None else []
        for c in grid[len(heads) :]:
            svm = LinearSVC(
                C=c,
                multi_class="crammer_singer",
                fit_intercept=False,
                class_weight=weight,
                random_state=seed,
                max_iter=MAX_PASSES,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # said in `unfinished`
                found = svm.fit(features, targets.y).coef_.T
            unfinished = f"liblinear stopped after {svm.n_iter_} passes" if svm.n_iter_ >= MAX_PASSES else ""
            if targets.k == 2:
                # scikit-learn keeps the difference of the two classes' weights; half a side gives it back.
                found = np.concatenate([-0.5 * found, 0.5 * found], axis=1)
            heads.append(cls.from_weights(found if back is None else space.weights(back @ found), unfinished))
            so_far.keep(functools.partial(cls.kept, tuple(heads)))
        return heads


def _reduced(gram: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(Z, B): Z Z^T = K, and W = [X 1]^T B v for weights v on Z.

    The penalty is a norm, so the optimum lies in the span of the rows and any basis of it serves.
    """
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    # float32 products leave noise of this size; its directions carry nothing.
    kept = values > len(gram) * np.finfo(np.float32).eps * values[-1]
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, vectors[:, kept] / root


def _augmented(rows: Matrix) -> NDArray[np.float32]:
    """(n, d + 1), held in memory: liblinear reads no blocks."""
    x = np.ones((len(rows), rows.dim + 1), dtype=np.float32)
    for part, block in rows.blocks():
        x[part, :-1] = block
    return x
