"""Forty curves, drawn as a person would draw them for each answer, all called right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.strategies.losses import guessing
from pipeline.strategies.reading import read

CHANCE = math.log(10)
Losses = NDArray[np.float64]


def curve(train: Sequence[float] | Losses, val: Sequence[float | None] | Losses) -> list[dict[str, Any]]:
    return [
        {"epoch": i + 1, "train_loss": float(t), "val_loss": None if v is None else float(v)}
        for i, (t, v) in enumerate(zip(train, val, strict=True))
    ]


def falls(start: float, floor: float, epochs: int, pace: float) -> Losses:
    """From `start` towards `floor`; in `pace` epochs the way left shrinks to 1/e."""
    return floor + (start - floor) * np.exp(-np.arange(epochs) / pace)


def line(start: float, end: float, epochs: int) -> Losses:
    return np.linspace(start, end, epochs)


def noisy(losses: Losses, size: float, seed: int) -> Losses:
    return losses + size * np.random.default_rng(seed).standard_normal(len(losses))


def then_rises(start: float, low: float, at: int, end: float, epochs: int) -> Losses:
    return np.concatenate([line(start, low, at), line(low, end, epochs - at + 1)[1:]])


def spike(losses: Losses, epoch: int, by: float) -> Losses:
    changed = losses.copy()
    changed[epoch] += by
    return changed


FALL = falls(2.2, 0.3, 40, 6)
DRAWN: list[tuple[str, str, list[dict[str, Any]]]] = [
    # -- levelled off
    ("a long plateau", "levelled off", curve(FALL, falls(2.2, 0.5, 40, 6))),
    ("with noise", "levelled off", curve(noisy(FALL, 0.02, 1), noisy(falls(2.2, 0.5, 40, 6), 0.04, 2))),
    ("much noise on few val images", "levelled off", curve(FALL, noisy(falls(2.2, 0.6, 40, 5), 0.08, 3))),
    ("three epochs", "levelled off", curve([2.0, 1.0, 0.9], [2.0, 1.2, 1.19])),
    (
        "five epochs, up and down a little",
        "levelled off",
        curve([1.2, 0.6, 0.5, 0.45, 0.44], [0.9, 0.7, 0.69, 0.7, 0.69]),
    ),
    ("a spike in the last epoch", "levelled off", curve(FALL, spike(falls(2.2, 0.5, 40, 6), 39, 0.6))),
    ("a dip early on", "levelled off", curve(FALL, spike(falls(2.2, 0.5, 40, 6), 20, -0.2))),
    ("begins where it ends", "levelled off", curve([0.20, 0.21, 0.20, 0.20], [0.25, 0.25, 0.26, 0.25])),
    ("both near zero, moving by parts of it", "levelled off", curve(falls(1, 1e-4, 20, 2), falls(1, 2e-3, 20, 2))),
    ("val below train, as with dropout", "levelled off", curve(falls(2.2, 0.6, 30, 4), falls(2.0, 0.4, 30, 4))),
    # -- not finished
    ("a straight fall", "not finished", curve(line(2.2, 1.0, 20), line(2.2, 1.1, 20))),
    ("three epochs, all falling", "not finished", curve([2.0, 1.5, 1.0], [2.0, 1.5, 1.0])),
    ("two epochs", "not finished", curve([2.0, 1.4], [1.9, 1.5])),
    ("slow, with noise", "not finished", curve(noisy(line(2.2, 0.9, 40), 0.02, 4), noisy(line(2.2, 1.1, 40), 0.03, 5))),
    ("an exponential cut short", "not finished", curve(falls(2.2, 0.2, 10, 8), falls(2.2, 0.3, 10, 8))),
    ("a hundred epochs", "not finished", curve(falls(2.2, 0.2, 100, 60), falls(2.2, 0.4, 100, 60))),
    ("a spike at the end of a fall", "not finished", curve(line(2.2, 0.8, 24), spike(line(2.2, 0.9, 24), 23, 0.5))),
    (
        "a rise in the middle, then on",
        "not finished",
        curve(line(2.2, 0.6, 30), line(2.2, 0.8, 30) + np.where((np.arange(30) > 9) & (np.arange(30) < 14), 0.5, 0)),
    ),
    ("no val, still falling", "not finished", curve(line(2.2, 1.0, 10), [None] * 10)),
    # -- overfits
    ("three epochs, a clear rise", "overfits", curve([2.0, 1.0, 0.2], [2.0, 1.0, 1.5])),
    ("falls and rises", "overfits", curve(falls(2.2, 0.02, 30, 6), then_rises(2.2, 0.7, 10, 1.3, 30))),
    (
        "with noise",
        "overfits",
        curve(noisy(falls(2.2, 0.02, 30, 6), 0.01, 6), noisy(then_rises(2.2, 0.7, 10, 1.2, 30), 0.04, 7)),
    ),
    ("slowly over a hundred epochs", "overfits", curve(falls(2.2, 0.02, 100, 12), then_rises(2.2, 0.6, 30, 0.8, 100))),
    (
        "a rise with a dip at the end",
        "overfits",
        curve(falls(2.2, 0.02, 30, 6), spike(then_rises(2.2, 0.7, 10, 1.3, 30), 29, -0.5)),
    ),
    ("far above the training loss", "overfits", curve([2.0, 1.0, 0.6], [3.5, 3.41, 3.4])),
    ("flat while training goes to zero", "overfits", curve(falls(2.2, 0.01, 30, 4), falls(2.2, 1.2, 30, 2))),
    ("from the first epoch on", "overfits", curve([0.9, 0.4, 0.2, 0.1], [1.0, 1.1, 1.25, 1.4])),
    # -- underfits
    ("a plateau near the start", "underfits", curve([2.3, 1.9, 1.88], [2.3, 1.9, 1.89])),
    ("long and flat", "underfits", curve(falls(2.3, 1.6, 30, 3), falls(2.3, 1.65, 30, 3))),
    ("with noise", "underfits", curve(noisy(falls(2.3, 1.6, 30, 3), 0.02, 8), noisy(falls(2.3, 1.7, 30, 3), 0.03, 9))),
    # -- hardly learns
    ("flat at chance", "hardly learns", curve([2.303] * 8, [2.303] * 8)),
    (
        "flat at chance with noise",
        "hardly learns",
        curve(noisy(np.full(20, 2.303), 0.004, 10), noisy(np.full(20, 2.303), 0.004, 11)),
    ),
    ("a crawl", "hardly learns", curve([2.3, 2.29, 2.28], [2.3, 2.29, 2.29])),
    # -- does not learn
    ("rises", "does not learn", curve([2.3, 2.9], [2.3, 2.9])),
    (
        "rises with noise",
        "does not learn",
        curve(noisy(line(2.3, 4.0, 20), 0.1, 12), noisy(line(2.3, 4.0, 20), 0.1, 13)),
    ),
    (
        "comes down to chance and stays",
        "does not learn",
        curve([3.4, 2.31, 2.303, 2.303, 2.303, 2.303], [2.4, 2.303, 2.303, 2.303, 2.303, 2.303]),
    ),
    # -- unstable
    (
        "learns, then comes apart",
        "unstable",
        curve(then_rises(2.2, 0.6, 12, 1.6, 20), then_rises(2.2, 0.7, 12, 1.7, 20)),
    ),
    ("comes apart in the last of five", "unstable", curve([2.0, 1.2, 0.8, 0.7, 1.5], [2.0, 1.3, 0.9, 0.8, 1.6])),
    # -- what can't be read
    ("one epoch", "too short", curve([1.0], [1.1])),
    ("not a number", "diverged", curve([2.0, 1.0, math.nan], [2.0, 1.0, math.nan])),
]


def test_there_are_forty() -> None:
    assert len(DRAWN) == 40


@pytest.mark.parametrize(("answer", "drawn"), [(a, c) for _, a, c in DRAWN], ids=[f"{a}: {n}" for n, a, _ in DRAWN])
def test_drawn_curves(answer: str, drawn: list[dict[str, Any]]) -> None:
    found = read(drawn, CHANCE)
    assert found.kind == answer, str(found)
    assert found.seen.endswith(".") and "nan" not in found.seen


@pytest.mark.parametrize("epochs", [8, 15, 40, 100])
@pytest.mark.parametrize("size", [0.01, 0.05])
@pytest.mark.parametrize("answer", ["levelled off", "not finished", "overfits", "underfits", "hardly learns"])
def test_other_draws_of_the_noise_change_little(answer: str, size: float, epochs: int) -> None:
    """Not one draw of the noise, but nearly all."""
    pace = epochs / 8
    train, val = {
        "levelled off": (falls(2.2, 0.3, epochs, pace), falls(2.2, 0.5, epochs, pace)),
        "not finished": (line(2.2, 0.8, epochs), line(2.2, 0.9, epochs)),
        "overfits": (falls(2.2, 0.05, epochs, pace), then_rises(2.2, 0.7, epochs // 3, 1.4, epochs)),
        "underfits": (falls(2.3, 1.6, epochs, pace / 2), falls(2.3, 1.65, epochs, pace / 2)),
        "hardly learns": (np.full(epochs, 2.3), np.full(epochs, 2.3)),
    }[answer]
    small = size / 10 if answer == "hardly learns" else size
    found = [read(curve(noisy(train, small / 2, s), noisy(val, small, s + 1000)), CHANCE).kind for s in range(50)]
    assert found.count(answer) >= 46, {kind: found.count(kind) for kind in set(found)}


def test_an_uneven_set_is_guessed_by_its_shares() -> None:
    """A network that names the class of nine tenths and nothing else has learned nothing, though its loss fell."""
    guess = guessing("cross_entropy", [90, 10])
    assert guess == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))
    flat = curve([0.69, 0.33, 0.325, 0.325, 0.325], [0.5, 0.33, 0.325, 0.325, 0.325])
    assert read(flat, guess).kind == "does not learn"
    assert guessing("cross_entropy", [7] * 5 + [0]) == pytest.approx(math.log(5))
    assert guessing("hinge", [3, 1, 1]) == 2
