"""The learning rate at which the loss falls: a sweep of one multiplier over all groups' rates (Smith 2017)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from pipeline.config import MEMORY_MB, FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.errors import UserError
from pipeline.finetune import optimisers
from pipeline.finetune.batches import Batch, EpochSampler
from pipeline.finetune.predict import autocast
from pipeline.finetune.prepared import place_of, prepared
from pipeline.finetune.sets import sets_of
from pipeline.finetune.training import Training
from pipeline.nets.weights import Weights

# The sweep ends where the smoothed loss is this many times its lowest.
_BLOWN_UP = 4.0
# Weight of the past in the smoothed loss.
_MEMORY = 0.8


@dataclass(frozen=True)
class Sweep:
    """`rates` (n,) of groups of multiple 1, `losses` (n,) smoothed.

    `suggested`: the rate where the loss falls fastest per decade; None if it never falls.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float | None


def find(
    name: str,
    manifest: Manifest,
    weights: Weights,
    params: FinetuneParams,
    *,
    cache: Path,
    memory_mb: int = MEMORY_MB,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 60,
) -> Sweep:
    """The sweep of a named strategy on repeat 0. Raises UserError if it trains nothing, or doesn't fit."""
    place = place_of(name, manifest, weights, params, cache, memory_mb=memory_mb)
    sets = [sets_of(manifest, place.images, 0, max_train=params.max_train, seed=params.seed)]
    made = prepared(place, sets, 0)
    if made.training is None or made.train is None:
        raise UserError(f"strategy {name} trains nothing", allowed="a strategy that does")
    return sweep(
        made.training,
        made.train,
        low=low,
        high=high,
        steps=steps,
        clip=params.clip,
        device=place.device,
        precision=place.precision,
    )


def sweep(
    training: Training,
    batches: DataLoader[Batch],
    *,
    low: float,
    high: float,
    steps: int,
    clip: float = 0.0,
    device: str = "cpu",
    precision: str = "fp32",
) -> Sweep:
    """One step a rate, from `low` to `high` in equal ratios; multiples between groups stay as they are. `clip`: largest
    norm of the gradient, 0 for none.

    Trains a copy: the model's weights, its gradients and the schedule are left as they were. Ends early when the loss
    blows up. Raises UserError on a range that does not rise.
    """
    if not 0 < low < high or steps < 3:
        raise UserError(
            f"a sweep from {low:g} to {high:g} in {steps} steps shows nothing",
            allowed="0 < low < high, and 3 steps or more",
        )
    trial = copy.deepcopy(training).to(device).train()
    optimiser = optimisers.make(trial.groups, trial.named, trial.recipe.optimiser)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    with torch.random.fork_rng(devices=[]), autocast(device, precision):
        for step, (inputs, targets) in enumerate(_endless(batches, steps)):
            rate = low * (high / low) ** (step / (steps - 1))
            optimisers.set_rates(optimiser, rate)
            loss = _step(trial, optimiser, (inputs.to(device), targets.to(device)), step, clip)
            average = _MEMORY * average + (1 - _MEMORY) * loss
            smoothed = average / (1 - _MEMORY ** (step + 1))
            if not math.isfinite(loss) or (losses and smoothed > _BLOWN_UP * min(losses)):
                break
            rates.append(rate)
            losses.append(smoothed)
    return Sweep(tuple(rates), tuple(losses), suggest(rates, losses))


def suggest(rates: Iterable[float], losses: Iterable[float]) -> float | None:
    """The rate of the steepest fall of the loss over the logarithm of the rate; None if it never falls."""
    x, y = np.log10(list(rates)), np.asarray(list(losses))
    if len(x) < 3:
        return None
    slopes = np.gradient(y, x)
    steepest = int(slopes.argmin())
    return float(10 ** x[steepest]) if slopes[steepest] < 0 else None


def _step(trial: Training, optimiser: torch.optim.Optimizer, batch: Batch, step: int, clip: float) -> float:
    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss, _ = trial.loss_of(batch, trial.step_seed(step))
        total = loss + optimisers.l2_penalty(trial.groups, trial.named) if trial.recipe.penalties_in_loss else loss
        total.backward()  # type: ignore[no-untyped-call]
        optimisers.add_l1(trial.groups, trial.named)
        if clip:
            nn.utils.clip_grad_norm_(trial.named.values(), clip)
        return loss.detach()

    return float(optimiser.step(closure))  # type: ignore[arg-type]


def _endless(batches: DataLoader[Batch], steps: int) -> Iterator[Batch]:
    """`steps` batches, epoch after epoch, each in its own order."""
    sampler, given = batches.sampler, 0
    assert isinstance(sampler, EpochSampler)
    first = sampler.epoch
    try:
        while given < steps:
            for batch in batches:
                if given == steps:
                    return
                yield batch
                given += 1
            sampler.set_epoch(sampler.epoch + 1)
    finally:
        sampler.set_epoch(first)
