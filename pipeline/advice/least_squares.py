"""Cross-validation of a linear head in closed form: regularised least squares, one class against the rest.

With the hat matrix H = X (X'X + r)^-1 X' the residuals of rows S, had they been left out of the fit, are
(I - H_SS)^-1 (Y - H Y)_S (Cook and Weisberg 1982, section 2.2): one factorisation serves every fold and every class,
where a head of `pipeline.heads` would be fitted again for each fold. X has the intercept as a further feature of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve, solve_triangular
from scipy.linalg.lapack import dpotri

from pipeline.heads.base import Targets

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

# Ridges, as multiples of the rows' mean squared length: from nearly none to a model that barely tells classes apart.
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)


class _Solved(Protocol):
    """(I - H) at one ridge, up to a factor that cancels."""

    residual: Doubles  # (n, k)

    def block(self, rows: Ints) -> Doubles:
        """(b, b) of rows S; only its lower half need be right."""


class _Dual:
    """ridge (K + ridge)^-1 = I - H with K = X X', for rows that are longer than many."""

    def __init__(self, gram: Doubles, wanted: Doubles, ridge: float) -> None:
        system = gram.copy()
        system[np.diag_indices_from(system)] += ridge
        factor, lower = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        self.residual = cho_solve((factor, lower), wanted, check_finite=False)
        self._inverse, info = dpotri(factor, lower=1, overwrite_c=1)
        if info != 0:
            raise np.linalg.LinAlgError(f"dpotri: {info}")

    def block(self, rows: Ints) -> Doubles:
        found: Doubles = self._inverse[np.ix_(rows, rows)]
        return found


class _Primal:
    """I - T'T = I - H with T = L^-1 X' and L L' = X'X + ridge, for more rows than features."""

    def __init__(self, x: Doubles, gram: Doubles, wanted: Doubles, ridge: float) -> None:
        system = gram.copy()
        system[np.diag_indices_from(system)] += ridge
        factor, _ = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        self._half = solve_triangular(factor, x.T, lower=True, check_finite=False)
        self.residual = wanted - self._half.T @ (self._half @ wanted)

    def block(self, rows: Ints) -> Doubles:
        half = self._half[:, rows]
        found: Doubles = -(half.T @ half)
        found[np.diag_indices_from(found)] += 1.0
        return found


def near(ridge: float) -> tuple[float, ...]:
    """A ridge of RIDGES and its neighbours: where to look on twice as many rows."""
    at = RIDGES.index(ridge)
    return RIDGES[max(at - 1, 0) : at + 2]


def held_out(x: NDArray[np.float32], targets: Targets, folds: Ints, ridges: Sequence[float] = RIDGES) -> Ints:
    """(ridges, deals, n) the class that each row of x (n, d) gets from the fit without its fold; -1 where it has none.

    `folds` (deals, n): rows dealt into folds, once or more often. Balanced targets weigh a row by its class.
    """
    weights = np.sqrt(targets.class_weights()[targets.y])[:, None]
    signs = np.where(targets.y[:, None] == np.arange(targets.k), 1.0, -1.0)
    wanted = signs * weights
    wide = np.concatenate([x, np.ones((len(x), 1), dtype=np.float32)], axis=1).astype(np.float64)
    wide *= weights
    # n^3 against d^3 / 3 + d^2 n and the folds' blocks: level where rows are a third more than features.
    dual = 3 * wide.shape[0] <= 4 * wide.shape[1]
    gram = wide @ wide.T if dual else wide.T @ wide
    unit = float(np.einsum("ij,ij->", wide, wide)) / len(wide)
    answers = np.full((len(ridges), *folds.shape), -1, dtype=np.int64)
    for number, ridge in enumerate(ridges):
        solved: _Solved
        solved = _Dual(gram, wanted, ridge * unit) if dual else _Primal(wide, gram, wanted, ridge * unit)
        for deal, fold in enumerate(folds):
            for held in np.unique(fold[fold >= 0]):
                rows = np.flatnonzero(fold == held)
                left = solve(solved.block(rows), solved.residual[rows], lower=True, assume_a="pos", check_finite=False)
                answers[number, deal, rows] = ((wanted[rows] - left) / weights[rows]).argmax(axis=1)
    return answers
