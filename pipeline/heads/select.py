"""A head's setting, C or k, chosen on validation, and the head fitted again on train + val; never a test row."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams
from pipeline.heads.base import Head, Targets
from pipeline.heads.registry import head_type
from pipeline.heads.scaling import Scaling
from pipeline.heads.sets import Sets
from pipeline.heads.stream import Matrix
from pipeline.metrics import classify

Ints = NDArray[np.int64]
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Chosen:
    """A head fitted on train + val with the setting `value` of its parameter; `scaling` was fitted on train.

    `val_score`: what `value` was chosen by, of the head fitted on train alone; None where there was no choice.
    `notes`: what its figures should be read with: how the grid was fitted to few images, fits that stopped early.
    """

    head: Head
    value: float
    scaling: Scaling
    val_score: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def as_dict(self) -> dict[str, float]:
        return {self.head.parameter: int(self.value) if self.head.parameter == "k" else self.value}


def grid_of(head: str, params: HeadsParams) -> list[float]:
    """The settings to try, rising, each once."""
    grid = params.k_grid if head_type(head).parameter == "k" else params.c_grid
    return sorted({float(v) for v in grid})


def choose(codes: Codes, sets: Sets, k: int, *, head: str, params: HeadsParams, so_far: SoFar = NOTHING) -> Chosen:
    """The best setting and its head, for `k` classes.

    Best is the highest accuracy on val, or the highest mean class recall with class_weight `balanced`; of equal ones
    the smallest C or k. A k above the number of training images is left out as long as another fits, and without a val
    image the middle of the grid is taken; `notes` say so. `so_far`: of this very choice. Raises UserError if no k fits.
    """
    train, val = sets.train, sets.val
    kind = head_type(head)
    grid, notes = _fitting(kind, grid_of(head, params), n_train=len(train), n_val=len(val))
    scaling = fit_scaling(codes, train, params)
    rows = rows_of(codes, np.concatenate([train, val]), scaling, params)
    targets = Targets(np.concatenate([sets.y_train, sets.y_val]), k, params.class_weight == "balanced")
    if len(grid) == 1:
        (only,) = kind.fit(rows, targets, grid, seed=params.seed, so_far=so_far.part("train"))
        return Chosen(only, grid[0], scaling, notes=(*notes, *_unfinished([only], grid)))
    candidates = kind.fit(
        rows.first(len(train)), targets.first(len(train)), grid, seed=params.seed, so_far=so_far.part("train")
    )
    answers = _answers(candidates, rows_of(codes, val, scaling, params), so_far.part("answers"))
    score = classify.mean_class_recall if targets.balanced else classify.accuracy
    scores = [score(classify.confusion(sets.y_val, a, k)) for a in answers]
    best = int(np.argmax(scores))
    (refitted,) = kind.fit(rows, targets, [grid[best]], seed=params.seed, so_far=so_far.part("refit"))
    notes = (*notes, *_unfinished([*candidates, refitted], [*grid, grid[best]]))
    return Chosen(refitted, grid[best], scaling, scores[best], notes)


def _fitting(kind: type[Head], grid: list[float], *, n_train: int, n_val: int) -> tuple[list[float], tuple[str, ...]]:
    """What of a rising grid can be tried with so few images, and sentences about the rest."""
    notes = []
    if kind.parameter == "k" and grid[0] <= n_train < grid[-1]:
        fits = [k for k in grid if k <= n_train]
        beyond = ", ".join(f"{k:g}" for k in grid[len(fits) :])
        notes.append(f"k of {beyond} left out: there are {n_train} training images")
        grid = fits
    if len(grid) > 1 and not n_val:
        grid = [grid[(len(grid) - 1) // 2]]
        notes.append(f"{kind.parameter} = {grid[0]:g} without a choice, for want of validation images")
    return grid, tuple(notes)


def _unfinished(heads: Sequence[Head], settings: Sequence[float]) -> tuple[str, ...]:
    found = [f"{h.parameter} = {v:g} {h.unfinished}" for h, v in zip(heads, settings, strict=True) if h.unfinished]
    return tuple(dict.fromkeys(found))


def fit_scaling(codes: Codes, train: Ints, params: HeadsParams) -> Scaling:
    """Reads the training rows in blocks of a quarter of the memory allowed."""
    step = max(1, (params.memory_mb * MEBIBYTE) // 4 // (codes.dim * 8))
    return Scaling.fit(params.scaling, (codes.rows(train[i : i + step]) for i in range(0, len(train), step)))


def rows_of(codes: Codes, index: Ints, scaling: Scaling, params: HeadsParams) -> Matrix:
    return Matrix(codes, index, codes.dim, scaling, memory_bytes=params.memory_mb * MEBIBYTE)


def score(head: Head, rows: Matrix, k: int, so_far: SoFar = NOTHING) -> NDArray[np.float32]:
    """(n, k) scores of all rows, in order."""
    out = np.zeros((len(rows), k), dtype=np.float32)
    done = _restored(out, so_far)
    for part, x in rows.blocks():
        for own in _pieces(head, part):
            if own.start >= done:
                out[own] = head.scores(x[own.start - part.start : own.stop - part.start])
                so_far.keep(functools.partial(_as_done, out, own.stop))
    return out


def _answers(heads: Sequence[Head], rows: Matrix, so_far: SoFar) -> Ints:
    """(heads, n) the classes that each head names."""
    out = np.zeros((len(heads), len(rows)), dtype=np.int64)
    done, number = _restored(out, so_far), 0
    for part, x in rows.blocks():
        for i, head in enumerate(heads):
            for own in _pieces(head, part):
                number += 1
                if number > done:
                    answers = classify.predicted(head.scores(x[own.start - part.start : own.stop - part.start]))
                    out[i, own] = answers
                    so_far.keep(functools.partial(_as_done, out, number))
    return out


def _pieces(head: Head, part: slice) -> Iterator[slice]:
    """The rows of a block in pieces that the head scores at once."""
    step = head.rows_at_once or max(1, part.stop - part.start)
    return (slice(start, min(start + step, part.stop)) for start in range(part.start, part.stop, step))


def _restored(out: NDArray[Any], so_far: SoFar) -> int:
    """Fills in what was found of `out`, and says how much that is, as `_as_done` was told."""
    part = so_far.found()
    if part is None:
        return 0
    out[...] = part.arrays["out"]
    return int(part.values["done"])


def _as_done(out: NDArray[Any], done: int) -> Part:
    return Part({"out": out}, {"done": done})
