"""The learning rate at which the loss falls: a sweep of one multiplier over all groups' rates (Smith 2017)."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from pipeline.base import json_files, stopping
from pipeline.base.errors import UserError
from pipeline.config import MEMORY_MB, FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.heads.sets import Sets
from pipeline.nets.weights import Weights
from pipeline.strategies import checkpoints, lr_plot, optimisers
from pipeline.strategies.batches import Batch, EpochSampler, begin_at
from pipeline.strategies.prepared import Place, place_of, prepared, run_key
from pipeline.strategies.sets import sets_of
from pipeline.strategies.swept import NOTHING, Curve, SoFar
from pipeline.strategies.training import Training

# The sweep ends where the smoothed loss is this many times its lowest.
_BLOWN_UP = 4.0
# Weight of the past in the smoothed loss.
_MEMORY = 0.8
# So often a line says how far it is.
_LINE_EVERY_S = 10.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """`rates` (n,) of groups of multiple 1, `losses` (n,) smoothed.

    `suggested`: the rate by which the loss has fallen half its way; None if it never falls. See `suggest`.
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
    plot: Path | None = None,
) -> Sweep:
    """The sweep of a named strategy on repeat 0; `plot`: a picture of it, see `lr_plot.draw`.

    Killed at any instant, the next call goes on from a state that is half a minute's work older at most, to the same
    result. Raises UserError if the strategy trains nothing, or doesn't fit.
    """
    params = params.of(name)
    place = place_of(name, manifest, weights, params, cache, memory_mb=memory_mb)
    sets = [sets_of(manifest, place.images, 0, max_train=params.max_train, seed=params.seed)]
    made = prepared(place, sets, 0)
    if made.training is None or made.train is None:
        raise UserError(f"strategy {name} trains nothing", allowed="a strategy that does")
    so_far = SoFar(_folder(place, sets, low=low, high=high, steps=steps))
    again = "decoded images are kept; the same command begins the sweep again"
    with stopping.says(lambda: so_far.told(steps) or again):
        found = sweep(
            made.training,
            made.train,
            low=low,
            high=high,
            steps=steps,
            clip=params.clip,
            device=place.device,
            so_far=so_far,
        )
        if plot is not None:
            lr_plot.draw(found, plot, title=f"Learning rates of {name}")
    so_far.remove()
    return found


def _folder(place: Place, sets: Sequence[Sets], **bounds: float) -> Path:
    """Where the state of a sweep lies until its results are written, named by all that changes it."""
    rows = [own.train.tolist() for own in sets]
    key = json_files.fingerprint({"run": run_key(place, 0), "train": rows, **bounds})
    return place.cache / checkpoints.FOLDER / f"lr-find-{key[:32]}"


def require_range(low: float, high: float, steps: int) -> None:
    """Raises UserError on rates that do not rise, or too few of them."""
    if not 0 < low < high < math.inf or steps < 3:
        raise UserError(
            f"a sweep from {low:g} to {high:g} in {steps} steps shows nothing",
            allowed="0 < low < high, and 3 steps or more",
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
    so_far: SoFar = NOTHING,
) -> Sweep:
    """One step a rate, from `low` to `high` in equal ratios; multiples between groups stay as they are, and a step is
    of as many batches as one of the run's. `clip`: largest norm of the gradient, 0 for none; `so_far`: of this very
    sweep.

    Trains a copy: the model's weights, its gradients and the schedule are left as they were. Ends early when the loss
    blows up. Raises UserError on a range that does not rise.
    """
    require_range(low, high, steps)
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    with torch.random.fork_rng(devices=[]), stopping.says(lambda: so_far.told(steps)):
        trial, optimiser, curve = _begun(training, so_far, steps=steps, device=device)
        losses, first = curve.losses, len(curve.losses)
        said_s = time.monotonic()
        for step, taken in enumerate(_endless(batches, steps, trial.recipe.steps.accumulate, first), first):
            optimisers.set_rates(optimiser, rates[step])
            moved = [(inputs.to(device), targets.to(device)) for inputs, targets in taken]
            loss = _step(trial, optimiser, moved, step, clip)
            curve.average = _MEMORY * curve.average + (1 - _MEMORY) * loss
            smoothed = curve.average / (1 - _MEMORY ** (step + 1))
            if not math.isfinite(loss) or (losses and smoothed > _BLOWN_UP * min(losses)):
                break
            losses.append(smoothed)
            so_far.keep(trial, optimiser, curve)
            if time.monotonic() - said_s >= _LINE_EVERY_S:
                said_s = time.monotonic()
                log.info("%d of %d rates, up to %.2g: loss %.3g", len(losses), steps, rates[step], smoothed)
    tried = rates[: len(losses)]
    return Sweep(tuple(tried), tuple(losses), suggest(tried, losses))


def suggest(rates: Iterable[float], losses: Iterable[float]) -> float | None:
    """The rate by which the loss has fallen half its way; None if it never falls, or in fewer than three steps.

    The way is from the median of the first quarter, where rates are too low to learn and losses differ by their batches
    alone, to the lowest before the loss rises above that quarter by more than they differ: what falls after it comes
    back from steps that were too long. Where the loss falls fastest (Smith 2017) hangs on two or three neighbouring
    steps, whose batches differ by more than it falls from one to the next. Half the way hangs on all steps: they are
    counted, not searched, so that a lucky batch at the beginning moves the answer by the few steps that it is
    remembered.
    """
    tried, y = list(rates), np.asarray(list(losses))
    if len(y) < 3:
        return None
    quarter = len(y) // 4 + 1
    noise = float(np.ptp(y[:quarter]))
    risen = np.flatnonzero(y[quarter:] > y[:quarter].max() + noise)
    end = quarter + int(risen[0]) if len(risen) else len(y)
    lowest = int(y[:end].argmin())
    if lowest < quarter:
        return None
    half = (np.median(y[:quarter]) + y[lowest]) / 2
    return tried[int((y[:lowest] > half).sum())]


def _begun(
    training: Training, so_far: SoFar, *, steps: int, device: str
) -> tuple[Training, torch.optim.Optimizer, Curve]:
    """The copy that is trained, its optimiser and the curve, as an earlier run left them or from the start."""
    made = _trial(training, device)
    if (curve := so_far.found(*made, steps=steps)) is not None:
        return *made, curve
    return *_trial(training, device), Curve()


def _trial(training: Training, device: str) -> tuple[Training, torch.optim.Optimizer]:
    trial = copy.deepcopy(training).to(device).train()
    return trial, optimisers.make(trial.groups, trial.named, trial.recipe.optimiser)


def _step(trial: Training, optimiser: torch.optim.Optimizer, taken: Sequence[Batch], step: int, clip: float) -> float:
    """The mean loss of the images in some batches, without penalties, before the step that is made by all of them."""
    recipe, images = trial.recipe, sum(len(targets) for _, targets in taken)
    means: list[float] = []

    def closure() -> float:
        optimiser.zero_grad()
        mean = whole = 0.0
        for i, batch in enumerate(taken):
            loss, _ = trial.loss_of(batch, trial.step_seed(step * recipe.steps.accumulate + i))
            total = loss + optimisers.l2_penalty(trial.groups, trial.named) if recipe.penalties_in_loss else loss
            share = len(batch[1]) / images
            (share * total).backward()  # type: ignore[no-untyped-call]
            mean, whole = mean + share * loss.item(), whole + share * total.item()
        optimisers.add_l1(trial.groups, trial.named)
        if clip:
            nn.utils.clip_grad_norm_(trial.named.values(), clip)
        means.append(mean)
        return whole

    # L-BFGS asks more than once in a step, and searches along the line of what it is told.
    optimiser.step(closure)
    return means[0]


def _endless(batches: DataLoader[Batch], steps: int, accumulate: int, first: int) -> Iterator[list[Batch]]:
    """The batches of steps `first` to `steps` - 1, `accumulate` a step or what an epoch has left, each epoch in its own
    order."""
    sampler, given = batches.sampler, first
    assert isinstance(sampler, EpochSampler)
    before = sampler.epoch, sampler.begun
    epochs, done = divmod(first, -(-len(batches) // accumulate))
    sampler.set_epoch(sampler.epoch + epochs)
    begin_at(batches, sampler.epoch, done * accumulate)
    try:
        while given < steps:
            drawn = iter(batches)
            while given < steps and (taken := list(islice(drawn, accumulate))):
                yield taken
                given += 1
            sampler.set_epoch(sampler.epoch + 1)
    finally:
        sampler.epoch, sampler.begun = before
