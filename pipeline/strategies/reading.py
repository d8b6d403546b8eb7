"""What the losses of a run say, in words: one reading for the page, the log and the sanity step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import theilslopes

Kind = Literal[
    "none",
    "diverged",
    "too short",
    "does not learn",
    "hardly learns",
    "unstable",
    "overfits",
    "not finished",
    "underfits",
    "levelled off",
]
Floats = NDArray[np.float64]

# Shares of a loss: a rise or fall of less is no news. A fall is looked for in the last third of the epochs, where an
# epoch counts _AN_EPOCH and all together at most _A_THIRD.
_RISE, _AN_EPOCH, _A_THIRD = 0.02, 0.01, 0.05
# Shares of the loss of guessing. A change of less can't be seen on a chart; a training loss that fell by less has
# hardly moved, one that ends this near to guessing has learned nothing; above half of it little is learned; and a
# validation loss this far above the training loss leaves a wide gap.
_SEEN, _HARDLY, _UNLEARNED, _WIDE = 0.005, 0.05, 0.5, 0.25
# How many standard deviations of the epochs' noise a rise and a fall have to exceed, and from how many epochs on noise
# is told. A lowest loss is the luckiest of many, so a rise from it needs more.
_NOISE_OF_RISE, _NOISE_OF_FALL, _TELLS_NOISE = 3.0, 2.0, 6


@dataclass(frozen=True)
class Reading:
    """`seen` is a sentence with the numbers, `advice` another, or empty."""

    kind: Kind
    seen: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.seen} {self.advice}".rstrip()


def read(curve: Sequence[Mapping[str, Any]], chance: float) -> Reading:
    """The verdict on a run by its losses, an epoch each (`outputs.read_curves`); validation losses may be None.

    `chance`: the loss of guessing, of the same kind (`losses.guessing`). Single epochs that stand out and the noise of
    the others, told from how far each lies from its neighbours' mean, don't count.
    """
    train = [row["train_loss"] for row in curve]
    if not curve or None in train:
        return Reading("none", "No training loss to read.")
    val = [row["val_loss"] for row in curve]
    read_val = None not in val
    if not np.isfinite(train + (val if read_val else [])).all():
        return Reading("diverged", "Diverged: a loss is not a number.", "Lower the rate.")
    learned = _Losses.of(train, chance)
    if len(curve) == 1:
        seen = f"Too short: one epoch, training loss {train[0]:.3f}, tells no trend."
        return Reading("too short", seen, "Train longer.")
    bad = _not_learning(learned, chance)
    if bad is not None:
        return bad
    if not read_val:
        return _by_training_alone(learned)
    return _by_both(learned, _Losses.of(val, chance), chance)


@dataclass(frozen=True)
class _Losses:
    """Of one split, an epoch each: as they are, without single epochs that stand out, the standard deviation of an
    epoch's noise (0 where too few tell it), and the least change that can be seen."""

    values: Floats
    smooth: Floats
    noise: float
    least: float

    @classmethod
    def of(cls, losses: Sequence[float], chance: float) -> _Losses:
        values = np.asarray(losses, dtype=np.float64)
        least = _SEEN * chance
        if len(values) < _TELLS_NOISE:
            return cls(values, values, 0.0, least)
        # Of independent noise, an epoch less its neighbours' mean has 3/2 of the variance.
        apart = values[1:-1] - (values[:-2] + values[2:]) / 2
        noise = float(1.4826 * np.median(np.abs(apart)) / math.sqrt(1.5))
        return cls(values, _median_of_three(values), noise, least)

    @property
    def best(self) -> int:
        return int(np.argmin(self.smooth))

    @property
    def lowest(self) -> float:
        return float(self.smooth[self.best])

    @property
    def end(self) -> float:
        """Of a long run the median of the last three epochs."""
        return float(np.median(self.values[-3 if self._long else -1 :]))

    @property
    def tail(self) -> Floats:
        """The last third of the epochs."""
        return self.values[-max(3 if self._long else 2, math.ceil(len(self.values) / 3)) :]

    @property
    def _long(self) -> bool:
        return len(self.values) >= _TELLS_NOISE

    def rose(self, share: float = _RISE) -> bool:
        """Whether it ends notably above its lowest."""
        needed = max(share * self.lowest, self.least, _NOISE_OF_RISE * self.noise)
        return self.best < len(self.values) - 1 and self.end - self.lowest > needed

    def falling(self) -> bool:
        """Whether it still fell at the end, by the median slope between two epochs of the tail (Sen 1968)."""
        n = len(self.tail)
        fall = -float(theilslopes(self.tail).slope) * (n - 1)
        # The standard deviation of n - 1 times the slope of a line through n epochs.
        error = self.noise * (n - 1) * math.sqrt(12 / (n * (n * n - 1)))
        share = min(_AN_EPOCH * n, _A_THIRD)
        return fall > max(share * float(np.median(self.tail)), self.least, _NOISE_OF_FALL * error)


def _median_of_three(values: Floats) -> Floats:
    """A running median; at the ends of the value, its neighbour and where the line of the next two leads (Tukey)."""
    middle = np.median([values[:-2], values[1:-1], values[2:]], axis=0)
    first = np.median([values[0], middle[0], 3 * middle[0] - 2 * middle[1]])
    last = np.median([values[-1], middle[-1], 3 * middle[-1] - 2 * middle[-2]])
    return np.concatenate([[first], middle, [last]])


def _not_learning(train: _Losses, chance: float) -> Reading | None:
    """What is wrong with the training loss alone, if anything is."""
    first, end = float(train.values[0]), train.end
    went = f"training loss went from {first:.3f} to {end:.3f}"
    if end - first > max(_RISE * chance, _NOISE_OF_RISE * train.noise):
        return Reading(
            "does not learn", f"Does not learn: training loss rose from {first:.3f} to {end:.3f}.", "Lower the rate."
        )
    near_chance = end > (1 - _HARDLY) * chance
    if near_chance and first - end < _HARDLY * chance:
        seen = f"Hardly learns: {went}, where guessing is {chance:.3f}."
        return Reading("hardly learns", seen, "The rate is too low: raise it.")
    if near_chance and not train.falling():
        seen = f"Does not learn: {went} and stays there, where guessing is {chance:.3f}."
        return Reading("does not learn", seen, "Try another rate; `cnncodes lr-find` shows which.")
    if train.rose(2 * _HARDLY) and train.end - train.lowest > _HARDLY * chance:
        seen = (
            f"Unstable: training loss was lowest, {train.lowest:.3f}, in epoch {train.best + 1} and rose to {end:.3f}."
        )
        return Reading("unstable", seen, "Lower the rate, or clip the gradient.")
    return None


def _by_training_alone(train: _Losses) -> Reading:
    without = "No validation loss to read."
    if train.falling():
        return Reading("not finished", f"Not finished: training loss still fell, to {train.end:.3f}. {without}")
    return Reading("levelled off", f"Levelled off: training loss {train.end:.3f}. {without}")


def _by_both(train: _Losses, val: _Losses, chance: float) -> Reading:
    if val.rose() and train.end < train.smooth[val.best]:
        return Reading(
            "overfits",
            f"Overfits: validation loss was lowest, {val.lowest:.3f}, in epoch {val.best + 1} and rose to "
            f"{val.end:.3f} while training loss fell to {train.end:.3f}.",
            "Regularise, augment, or get more data.",
        )
    if val.falling():
        since = len(val.values) - len(val.tail) + 1
        return Reading(
            "not finished",
            f"Not finished: validation loss still fell at the end, from {val.tail[0]:.3f} in epoch {since} to "
            f"{val.tail[-1]:.3f}.",
            "Train longer, or with a higher rate.",
        )
    gap = val.end - train.end
    if gap > _WIDE * chance and val.end > 1.5 * train.end:
        return Reading(
            "overfits",
            f"Overfits: validation loss stays at {val.end:.3f}, far above training loss, {train.end:.3f}.",
            "Regularise, augment, or get more data.",
        )
    if min(train.end, val.end) > _UNLEARNED * chance and not train.falling():
        return Reading(
            "underfits",
            f"Underfits: training loss levelled off at {train.end:.3f}, validation loss at {val.end:.3f}.",
            "Train longer, free more layers, or take a larger model.",
        )
    return Reading("levelled off", f"Levelled off: validation loss {val.end:.3f}, training loss {train.end:.3f}.")
