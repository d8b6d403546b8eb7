"""How the learning rate goes with the step: pure functions, so that a resumed run has the same rates.

With a warm-up of w > 0 steps, step t (from 0) has the factor (t + 1) / w until t = w - 1, which has 1. After it, with
s = t - w and T = total - w, by schedule:

- constant: 1
- step: factor^floor(s / every)
- linear: 1 - s / T
- cosine: (1 + cos(pi s / T)) / 2 (Loshchilov and Hutter 2017, without restarts)
- inverse_sqrt: sqrt(max(w, 1) / (t + 1)) (Vaswani et al. 2017, equation 3, scaled to 1 at the end of the warm-up)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.base.errors import UserError

# The batch for which learning rates are stated when they scale with it (Goyal et al. 2017).
REFERENCE_BATCH = 256


@dataclass(frozen=True)
class Schedule:
    """`total`, `warmup` and `every` in steps. `every` and `factor` are of kind step."""

    kind: str
    total: int
    warmup: int = 0
    every: int = 1
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise UserError(f"unknown schedule {self.kind!r}", allowed=SCHEDULES)
        if self.total < 1 or not 0 <= self.warmup < self.total:
            raise UserError(f"a schedule of {self.total} steps can't have {self.warmup} of warm-up")

    def at(self, step: int) -> float:
        """The factor on the learning rate at a step from 0; beyond the last step that of the last."""
        step = min(step, self.total - 1)
        if step < self.warmup:
            return (step + 1) / self.warmup
        return SCHEDULES[self.kind](self, step)


def _share(schedule: Schedule, step: int) -> float:
    """How far into what follows the warm-up, 0..1."""
    return (step - schedule.warmup) / (schedule.total - schedule.warmup)


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    "constant": lambda schedule, step: 1.0,
    "step": lambda schedule, step: schedule.factor ** ((step - schedule.warmup) // schedule.every),
    "linear": lambda schedule, step: 1 - _share(schedule, step),
    "cosine": lambda schedule, step: (1 + math.cos(math.pi * _share(schedule, step))) / 2,
    "inverse_sqrt": lambda schedule, step: math.sqrt(max(schedule.warmup, 1) / (step + 1)),
}


def scaled_rate(rate: float, batch: int) -> float:
    """The rate for a batch of `batch` images, of one stated for REFERENCE_BATCH (the linear rule)."""
    return rate * batch / REFERENCE_BATCH
