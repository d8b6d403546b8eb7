"""The procedure for choosing hyperparameters, step by step, each with what was seen and what to try next.

The order is that of Stanford's CS231n notes: the first loss, a handful of batches learned by heart, the rate at which
the loss falls, a short coarse grid, and the curve of its winner.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pipeline.config import FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.errors import UserError
from pipeline.finetune import gains, lr_find, optimisers
from pipeline.finetune.batches import Batch
from pipeline.finetune.predict import autocast
from pipeline.finetune.prepared import Place, Prepared, place_of, prepared
from pipeline.finetune.sets import sets_of
from pipeline.finetune.train import Limits, fit
from pipeline.finetune.training import Training
from pipeline.heads.sets import Sets
from pipeline.nets.weights import Weights

log = logging.getLogger(__name__)

Verdict = Literal["pass", "warn", "fail"]

# Shares of ln k by which the first loss may miss it.
_CLOSE, _FAR = 0.1, 0.5
_BATCHES, _OVERFIT_STEPS, _OVERFIT_RATE = 2, 200, 1e-3
_SWEEP = (1e-6, 10.0, 40)
# Factors on the suggested rate, and on the weight decay, of the coarse grid.
_GRID_RATES, _GRID_DECAYS = (0.3, 1.0, 3.0), (0.0, 1.0)


@dataclass(frozen=True)
class Step:
    """`seen` and `advice` are sentences. `curve`: column -> values of equal length, for a drawing; {} where none."""

    name: str
    verdict: Verdict
    seen: str
    advice: str
    curve: dict[str, list[float]]


def check(
    name: str, manifest: Manifest, weights: Weights, params: FinetuneParams, *, cache: Path, epochs: int = 3
) -> list[Step]:
    """All steps for a strategy on repeat 0; nothing is written but the cache of images. `epochs`: of the grid's runs.

    A step that can't be judged because an earlier one failed is still run: its curve helps to find out why. Raises
    UserError if the strategy trains nothing, or doesn't fit.
    """
    place = place_of(name, manifest, weights, params, cache)
    sets = [sets_of(manifest, place.images, 0, max_train=params.max_train, seed=params.seed)]
    made = _ready(place, sets)
    steps = [first_loss(place, made), overfit(place, made)]
    swept, rate = find_rate(place, made)
    steps.append(swept)
    steps += grid(place, sets, rate or params.learning_rate, epochs)
    for step in steps:
        log.info("%s: %s. %s %s", step.verdict.upper(), step.name, step.seen, step.advice)
    return steps


def first_loss(place: Place, made: Prepared) -> Step:
    """The loss before any step, without decay, dropout and augmentation: ln k of a classifier that knows nothing."""
    trial = _plain(made)
    trial.eval()
    sums, images = 0.0, 0
    with torch.inference_mode(), autocast(place.device, place.precision):
        for batch in _some(made, _BATCHES, place.device):
            loss, _ = trial.loss_of(batch, 0)
            sums += float(loss) * len(batch[1])
            images += len(batch[1])
    found, k = sums / images, trial.recipe.k
    # Scores that are all equal: each of the k - 1 other classes is short of the hinge's margin by 1.
    expected = math.log(k) if place.params.loss == "cross_entropy" else k - 1.0
    missed = abs(found - expected) / expected if math.isfinite(found) else math.inf
    verdict: Verdict = "pass" if missed <= _CLOSE else "warn" if missed <= _FAR else "fail"
    return Step(
        "initial loss",
        verdict,
        f"The loss before training is {found:.3f}; one that knows nothing of {k} classes has {expected:.3f}.",
        ""
        if verdict == "pass"
        else "Bad initialisation: make the last layer's values smaller, or check preprocessing.",
        {},
    )


def overfit(place: Place, made: Prepared) -> Step:
    """A handful of batches must be learned by heart, dropout and augmentation off, without decay."""
    trial = _plain(made).to(place.device).train()
    for group in trial.groups:
        for parameter in group.parameters:
            trial.named[parameter].requires_grad_(group.multiple > 0)
    # Adam, all at one rate that suits most networks: whether the model can is the question, not the chosen optimiser.
    groups = [
        replace(g, optimiser="adam", multiple=float(g.multiple > 0), weight_decay=0.0, l1=0.0, from_epoch=0)
        for g in trial.groups
    ]
    optimiser = optimisers.make(groups, trial.named, optimisers.Settings(_OVERFIT_RATE, 0.0, False))
    batches = _some(made, _BATCHES, place.device)
    losses, accuracies = [], []
    for _ in range(_OVERFIT_STEPS // len(batches)):
        right = total = 0
        loss = torch.zeros(())
        for batch in batches:
            optimiser.zero_grad()
            with autocast(place.device, place.precision):
                loss, logits = trial.loss_of(batch, 0)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            right += int((logits.argmax(dim=1) == batch[1]).sum())
            total += len(batch[1])
        losses.append(float(loss.detach()))
        accuracies.append(right / total)
        if right == total or not math.isfinite(losses[-1]):
            break
    verdict: Verdict = "pass" if accuracies[-1] == 1 else "warn" if accuracies[-1] > 0.9 else "fail"
    return Step(
        "overfit a handful of batches",
        verdict,
        f"After {len(losses)} passes over {sum(len(b[1]) for b in batches)} images accuracy on them is "
        f"{accuracies[-1]:.0%}.",
        "" if verdict == "pass" else "Too much is frozen, the model is too small, or labels and images don't belong.",
        {"loss": losses, "accuracy": accuracies},
    )


def find_rate(place: Place, made: Prepared) -> tuple[Step, float | None]:
    """The sweep of `lr_find`, set against the rate that is asked for."""
    assert made.training is not None
    assert made.train is not None
    low, high, steps = _SWEEP
    found = lr_find.sweep(
        made.training, made.train, low=low, high=high, steps=steps, device=place.device, precision=place.precision
    )
    curve = {"rate": list(found.rates), "loss": list(found.losses)}
    asked = made.training.recipe.optimiser.rate
    if found.suggested is None:
        advice = "Look at the steps before: the loss falls at no rate."
        return Step("learning rate", "fail", f"Between {low:g} and {high:g} the loss never fell.", advice, curve), None
    ratio = asked / found.suggested
    verdict: Verdict = "pass" if 0.1 <= ratio <= 10 else "warn"
    advice = (
        "" if verdict == "pass" else f"The rate is too {'low' if ratio < 1 else 'high'}: try {found.suggested:.2g}."
    )
    seen = f"The loss falls fastest at {found.suggested:.2g}; the rate asked for is {asked:.2g}."
    return Step("learning rate", verdict, seen, advice, curve), found.suggested


def grid(place: Place, sets: Sequence[Sets], rate: float, epochs: int) -> list[Step]:
    """A few epochs for each of some rates and decays about `rate`; then what the best one's curve says."""
    p = place.params
    runs: list[tuple[float, float, float, list[dict[str, Any]]]] = []
    decays = dict.fromkeys(p.weight_decay * factor for factor in _GRID_DECAYS)
    for factor, decay in itertools.product(_GRID_RATES, decays):
        tried = p.model_copy(
            update={
                "learning_rate": rate * factor,
                "scale_rate_with_batch": False,
                "weight_decay": decay,
                "epochs": epochs,
            }
        )
        curve = _short_run(replace(place, params=tried), sets, epochs)
        value = curve[-1]["val_accuracy"] if curve else None
        runs.append((rate * factor, decay, -1.0 if value is None else value, curve))
    best = max(runs, key=lambda run: run[2])
    columns = {"rate": [r[0] for r in runs], "weight_decay": [r[1] for r in runs], "val_accuracy": [r[2] for r in runs]}
    rates = sorted({r[0] for r in runs})
    at_edge = best[0] in (rates[0], rates[-1])
    seen = f"Of {len(runs)} short runs, rate {best[0]:.2g} with decay {best[1]:g} is best: {best[2]:.1%} on validation."
    advice = f"The best rate is the grid's {'lowest' if best[0] == rates[0] else 'highest'}: go on beyond it."
    return [
        Step("coarse grid", "warn" if at_edge else "pass", seen, advice if at_edge else "", columns),
        read_curve(best[3]),
    ]


def read_curve(curve: Sequence[dict[str, Any]]) -> Step:
    """`gains.reading` of the best run, with the gap between training and validation."""
    text = gains.reading(curve)
    verdict: Verdict = "fail" if not curve or text.startswith("Does not") else "warn"
    if text.startswith("Levelled"):
        verdict = "pass"
    columns = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    drawn = {c: [row[c] for row in curve] for c in columns if curve and None not in [row[c] for row in curve]}
    seen, _, advice = text.partition(". ")
    return Step("curve", verdict, seen.rstrip(".") + ".", advice, drawn)


def _short_run(place: Place, sets: Sequence[Sets], epochs: int) -> list[dict[str, Any]]:
    """Its curve; [] if it diverged."""
    made = _ready(place, sets)
    assert made.training is not None
    assert made.train is not None
    p = place.params
    limits = Limits(epochs, p.clip, p.accumulate, p.select, 0, 0, place.precision, place.device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return fit(made.training, made.train, made.val, limits, folder=Path(folder), key="sanity").curve
        except UserError as e:
            log.info("%s", e)
            return []


def _ready(place: Place, sets: Sequence[Sets]) -> Prepared:
    made = prepared(place, sets, 0)
    if made.training is None:
        raise UserError(f"strategy {place.name} trains nothing", allowed="a strategy that does")
    return made


def _plain(made: Prepared) -> Training:
    """A copy without dropout, mixing and smoothing."""
    assert made.training is not None
    trial = copy.deepcopy(made.training)
    trial.recipe = replace(trial.recipe, mix=None, smoothing=0.0)
    for module in trial.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trial


def _some(made: Prepared, count: int, device: str) -> list[Batch]:
    """The first training batches, as one epoch shows them and no other."""
    assert made.train is not None
    found: Iterable[Batch] = itertools.islice(made.train, count)
    return [(inputs.to(device), targets.to(device)) for inputs, targets in found]
