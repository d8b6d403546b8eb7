"""Every schedule at every step against its formula, worked out another way."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from pipeline.base.errors import UserError
from pipeline.strategies.schedules import SCHEDULES, Schedule, scaled_rate

TOTAL = 20


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_warm_up_rises_to_one_in_equal_steps(kind: str, warmup: int) -> None:
    schedule = Schedule(kind, TOTAL, warmup=warmup)
    assert [schedule.at(t) for t in range(warmup)] == pytest.approx([(t + 1) / warmup for t in range(warmup)])
    if kind != "inverse_sqrt" or warmup == 0:
        assert schedule.at(warmup) == 1


@pytest.mark.parametrize("warmup", [0, 5])
def test_every_step_after_the_warm_up(warmup: int) -> None:
    def rates(kind: str) -> list[float]:
        schedule = Schedule(kind, TOTAL, warmup=warmup, every=4, factor=0.5)
        return [schedule.at(t) for t in range(warmup, TOTAL)]

    left = TOTAL - warmup
    assert rates("constant") == [1.0] * left
    halved = [1.0] * 4 + [0.5] * 4 + [0.25] * 4 + [0.125] * 4 + [0.0625] * 4
    assert rates("step") == halved[:left]
    falling = rates("linear")
    assert falling[0] == 1
    assert [a - b for a, b in itertools.pairwise(falling)] == pytest.approx([1 / left] * (left - 1))
    # cos(x / 2)^2, the half-angle form.
    assert rates("cosine") == pytest.approx([math.cos(math.pi * s / left / 2) ** 2 for s in range(left)])
    # Quadruple the step (counted from 1), halve the rate.
    inverse = Schedule("inverse_sqrt", 100, warmup=warmup)
    first = max(warmup, 1)
    assert inverse.at(first - 1) == 1
    for t in range(first, 25):
        assert inverse.at(4 * t - 1) == pytest.approx(inverse.at(t - 1) / 2)


def torchs(scheduler: type[LRScheduler], **settings: Any) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made, rates = scheduler(optimiser, **settings), []
    for _ in range(TOTAL):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        made.step()
    return rates


def test_schedules_are_torchs() -> None:
    def rates(kind: str) -> list[float]:
        schedule = Schedule(kind, TOTAL, every=4, factor=0.5)
        return [schedule.at(t) for t in range(TOTAL)]

    assert rates("cosine") == pytest.approx(torchs(CosineAnnealingLR, T_max=TOTAL), abs=1e-9)
    assert rates("step") == pytest.approx(torchs(StepLR, step_size=4, gamma=0.5))
    assert rates("linear") == pytest.approx(torchs(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=TOTAL))


def test_beyond_the_end_the_last_rate_stays() -> None:
    schedule = Schedule("linear", TOTAL, warmup=3)
    assert schedule.at(TOTAL + 5) == schedule.at(TOTAL - 1) > 0


def test_errors() -> None:
    with pytest.raises(UserError, match="unknown schedule 'cosin'"):
        Schedule("cosin", 10)
    with pytest.raises(UserError, match="10 steps can't have 10 of warm-up"):
        Schedule("linear", 10, warmup=10)


def test_rate_grows_with_the_batch() -> None:
    assert scaled_rate(0.1, 256) == 0.1
    assert scaled_rate(0.1, 64) == pytest.approx(0.025)
