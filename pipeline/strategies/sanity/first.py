"""Before any real training: the first loss, a handful of batches learned by heart, and the rate."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.strategies import lr_find, optimisers
from pipeline.strategies.batches import Batch
from pipeline.strategies.prepared import Prepared
from pipeline.strategies.sanity.bench import Bench
from pipeline.strategies.sanity.step import Columns, Step, Verdict, column
from pipeline.strategies.swept import SoFar
from pipeline.strategies.training import Training

# Shares of the chance loss by which the first loss may miss it.
_CLOSE, _FAR = 0.1, 0.5
# Adam learns by heart at the first of these what a network can hold; a head on small features needs the second.
_BY_HEART_RATES = (1e-3, 1e-2)
# An asked rate so many times off the one found is worth a warning.
_RATE_OFF = 10.0


def first_loss(at: Bench, made: Prepared) -> Step:
    """Before any step, without decay, dropout and augmentation: that of a classifier that knows nothing."""
    training = _training(made).eval()
    losses: list[float] = []
    sums, images = 0.0, 0
    with torch.inference_mode():
        for batch in _some(at, made):
            loss, _ = training.loss_of(batch, 0)
            losses.append(float(loss))
            sums += float(loss) * len(batch[1])
            images += len(batch[1])
    found, expected = sums / images, at.chance
    missed = abs(found - expected) / expected if math.isfinite(found) else math.inf
    verdict: Verdict = "pass" if missed <= _CLOSE else "warn" if missed <= _FAR else "fail"
    if verdict == "pass":
        advice = ""
    elif found < expected:
        advice = "It knows the classes before it was trained: is the classifier new, and are the classes balanced?"
    else:
        advice = "Bad initialisation: make the last layer's values smaller, or check the preprocessing."
    return Step(
        "initial loss",
        verdict,
        f"The loss of {images} images before training is {found:.3f}; that of a classifier which knows nothing of "
        f"{len(at.place.manifest.classes)} classes is {expected:.3f}.",
        advice,
        {"batch": _numbers(losses), "loss": column(losses)},
        {"loss": expected},
    )


def overfit(at: Bench, made: Prepared) -> Step:
    """A handful of batches must be learned by heart, dropout and augmentation off, without decay.

    By Adam at rates that suit most networks: whether the model can is the question, not the chosen optimiser.
    """
    batches = _some(at, made)
    tried: list[tuple[list[float], list[float], float]] = []
    for rate in _BY_HEART_RATES:
        tried.append((*_learn(at, made, batches, rate), rate))
        if tried[-1][1][-1] == 1:
            break
    losses, accuracies, rate = max(tried, key=lambda one: one[1][-1])
    verdict: Verdict = "pass" if accuracies[-1] == 1 else "warn" if accuracies[-1] > 0.9 else "fail"
    return Step(
        "overfit a handful of batches",
        verdict,
        f"After {len(losses)} passes at rate {rate:g} over {sum(len(b[1]) for b in batches)} images accuracy on them "
        f"is {accuracies[-1]:.0%}.",
        ""
        if verdict == "pass"
        else "Underfitting: too much is frozen, the model is too small, or the labels don't belong to the images.",
        {"pass": _numbers(losses), "loss": column(losses), "accuracy": column(accuracies)},
        {"accuracy": 1.0},
    )


def find_rate(at: Bench, made: Prepared) -> tuple[Step, float]:
    """The sweep of `lr_find`, set against the rate that is asked for; and the rate to go on with."""
    assert made.training is not None
    assert made.train is not None
    how = at.how
    found = lr_find.sweep(
        made.training,
        made.train,
        low=how.sweep_low,
        high=how.sweep_high,
        clip=at.place.params.clip,
        steps=how.sweep_steps,
        device=at.place.device,
        so_far=SoFar(at.runs / "sweep"),
    )
    name, asked = "learning rate", made.training.recipe.optimiser.rate
    curve: Columns = {"rate": column(found.rates), "loss": column(found.losses)}
    if found.suggested is None:
        seen = f"Between {how.sweep_low:g} and {how.sweep_high:g} the loss never fell."
        return Step(name, "fail", seen, "Look at the steps before, and check the data.", curve, {"rate": asked}), asked
    ratio = asked / found.suggested
    verdict: Verdict = "pass" if 1 / _RATE_OFF <= ratio <= _RATE_OFF else "warn"
    advice = (
        f"The rate is too {'low' if ratio < 1 else 'high'}: try {found.suggested:.2g}." if verdict == "warn" else ""
    )
    seen = f"By {found.suggested:.2g} the loss has fallen half its way; the rate asked for is {asked:.2g}."
    return Step(name, verdict, seen, advice, curve, {"rate": found.suggested}), found.suggested


def _learn(at: Bench, made: Prepared, batches: Sequence[Batch], rate: float) -> tuple[list[float], list[float]]:
    """(losses, accuracies) of each pass over the batches by a copy of the model, until all are right."""
    training = _training(made).to(at.place.device).train()
    for group in training.groups:
        for parameter in group.parameters:
            training.named[parameter].requires_grad_(group.multiple > 0)
    groups = [
        replace(g, optimiser="adam", multiple=float(g.multiple > 0), weight_decay=0.0, l1=0.0, from_epoch=0)
        for g in training.groups
    ]
    optimiser = optimisers.make(groups, training.named, optimisers.Hyperparameters(rate, 0.0, False))
    losses: list[float] = []
    accuracies: list[float] = []
    for _ in range(max(1, at.how.overfit_steps // len(batches))):
        right = images = 0
        summed = 0.0
        for batch in batches:
            optimiser.zero_grad()
            loss, logits = training.loss_of(batch, 0)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            right += int((logits.argmax(dim=1) == batch[1]).sum())
            summed += float(loss.detach()) * len(batch[1])
            images += len(batch[1])
        losses.append(summed / images)
        accuracies.append(right / images)
        if right == images or not math.isfinite(losses[-1]):
            break
    return losses, accuracies


def _training(made: Prepared) -> Training:
    """A copy, so that each step begins with the values that the strategy begins with."""
    assert made.training is not None
    return copy.deepcopy(made.training)


def _some(at: Bench, made: Prepared) -> list[Batch]:
    """The first training batches of the first epoch."""
    assert made.train is not None
    found = itertools.islice(made.train, at.how.batches)
    return [(inputs.to(at.place.device), targets.to(at.place.device)) for inputs, targets in found]


def _numbers(values: Sequence[float]) -> list[float | None]:
    """1, 2, 3, ... for each of some values."""
    return [float(i + 1) for i in range(len(values))]
