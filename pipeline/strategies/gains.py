"""What transfer promises, read off validation curves: a higher start, a higher slope, a higher asymptote (Torrey and
Shavlik 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.base.errors import UserError

# The share of the way from start to asymptote at which a curve counts as risen.
RISEN = 0.9


@dataclass(frozen=True)
class Shape:
    """Of a curve of validation accuracies v_1..v_E, all in shares of 1.

    start: v_1. asymptote: the mean of the last fifth of the epochs, one at least. slope: (v_e - v_1) / (e - 1) with e
    the first epoch that has covered RISEN of the way from start to asymptote; 0 if that way does not lead up.
    """

    start: float
    slope: float
    asymptote: float


def shape(accuracies: Sequence[float]) -> Shape:
    """Raises UserError without values."""
    if not len(accuracies):
        raise UserError("a curve without validation accuracies has no start, slope or asymptote")
    v = np.asarray(accuracies, dtype=np.float64)
    start, asymptote = float(v[0]), float(v[-max(1, len(v) // 5) :].mean())
    if asymptote <= start:
        return Shape(start, 0.0, asymptote)
    risen = int(np.argmax(v >= start + RISEN * (asymptote - start)))
    return Shape(start, float(v[risen] - start) / risen, asymptote)


def gains(
    curves: Sequence[Sequence[Mapping[str, Any]]], against: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, float] | None:
    """Means over repeats of strategy less `against` (usually scratch): start, slope, asymptote, paired by repeat.

    None if a curve has no validation accuracies. Curves are those of `outputs.read_curves`.
    """
    pairs = list(zip(curves, against, strict=False))
    columns = [[[row["val_accuracy"] for row in curve] for curve in pair] for pair in pairs]
    if not columns or any(None in curve or not curve for pair in columns for curve in pair):
        return None
    shapes = [(shape(own), shape(other)) for own, other in columns]
    return {
        key: float(np.mean([getattr(own, key) - getattr(other, key) for own, other in shapes]))
        for key in ("start", "slope", "asymptote")
    }
