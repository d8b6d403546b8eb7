"""Short runs over rates and decays: a coarse grid, finer ones about its winner, and what the best run's curve says."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.base.counting import counted
from pipeline.strategies import reading
from pipeline.strategies.diverged import DivergedError
from pipeline.strategies.sanity.bench import Bench
from pipeline.strategies.sanity.step import Columns, Step, Verdict
from pipeline.strategies.train import Limits, fit

log = logging.getLogger(__name__)

_VERDICTS: Mapping[reading.Kind, Verdict] = {
    "none": "fail",
    "diverged": "fail",
    "does not learn": "fail",
    "hardly learns": "fail",
    "too short": "warn",
    "unstable": "warn",
    "overfits": "warn",
    "not finished": "warn",
    "underfits": "warn",
    "levelled off": "pass",
}


@dataclass(frozen=True)
class Run:
    """A short run at a rate and a weight decay; `curve` is [] if it diverged."""

    rate: float
    decay: float
    curve: Sequence[Mapping[str, Any]]

    @property
    def accuracy(self) -> float | None:
        """On validation images after the last epoch; None without any."""
        return self.curve[-1]["val_accuracy"] if self.curve else None

    @property
    def worth(self) -> tuple[float, float]:
        """To be compared: accuracy, then loss, on validation; the training loss where there is none."""
        if not self.curve:
            return -math.inf, 0.0
        last = self.curve[-1]
        return (0.0, -last["train_loss"]) if last["val_loss"] is None else (last["val_accuracy"], -last["val_loss"])


def search(at: Bench, rate: float) -> list[Step]:
    """A grid about `rate`, then finer ones about the best so far, or further on where that lay at an edge."""
    p, factors = at.place.params, list(at.how.grid_rates)
    decays = list(dict.fromkeys(p.weight_decay * factor for factor in at.how.grid_decays))
    runs: list[Run] = []
    steps: list[Step] = []
    for number in range(at.how.rounds):
        settings = [s for s in itertools.product([rate * f for f in factors], decays) if not _done(runs, s)]
        runs += [Run(r, d, _short_run(at, r, d)) for r, d in settings]
        best = max(runs, key=lambda run: run.worth)
        rates = sorted({run.rate for run in runs})
        at_edge = len(rates) > 1 and best.rate in (rates[0], rates[-1])
        steps.append(_step("coarse grid" if number == 0 else "finer grid", at, runs, best, at_edge=at_edge))
        if not best.curve:
            break
        rate, decays = best.rate, [best.decay]
        if not at_edge:
            factors = [math.sqrt(f) for f in factors]
    return [*steps, read_curve(best.curve, at.guess)]


def _step(name: str, at: Bench, runs: Sequence[Run], best: Run, *, at_edge: bool) -> Step:
    columns: Columns = {
        "rate": [run.rate for run in runs],
        "weight_decay": [run.decay for run in runs],
        "val_accuracy": [run.accuracy for run in runs],
    }
    if not best.curve:
        return Step(name, "fail", f"All {len(runs)} runs diverged.", "Lower the rate.", columns)
    epochs = counted(at.how.epochs, "epoch")
    where = f"Among {len(runs)} runs of {epochs}, rate {best.rate:.2g} with decay {best.decay:g} is best"
    if best.accuracy is None:
        advice = "Keep some images for validation: dataset.val_share."
        return Step(name, "warn", f"{where} by its training loss alone.", advice, columns, {"rate": best.rate})
    n = len(at.sets.val)
    error = math.sqrt(best.accuracy * (1 - best.accuracy) / n)
    seen = f"{where}: {best.accuracy:.1%} ± {error:.1%} of the {n} validation images."
    lowest = best.rate == min(run.rate for run in runs)
    advice = (
        f"The best rate is the {'lowest' if lowest else 'highest'} that was tried: go on beyond it." if at_edge else ""
    )
    return Step(name, "warn" if at_edge else "pass", seen, advice, columns, {"rate": best.rate})


def read_curve(curve: Sequence[Mapping[str, Any]], guess: float) -> Step:
    """What a run's losses say (`reading.read`). `guess`: the loss of guessing."""
    if not curve:
        return Step("curve", "fail", "Every run diverged.", "Lower the rate.", {})
    columns = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
    drawn: Columns = {c: [row[c] for row in curve] for c in columns}
    found = reading.read(curve, guess)
    return Step("curve", _VERDICTS[found.kind], found.seen, found.advice, drawn, {"val_loss": guess})


def _done(runs: Sequence[Run], settings: tuple[float, float]) -> bool:
    return any(math.isclose(run.rate, settings[0]) and run.decay == settings[1] for run in runs)


def _short_run(at: Bench, rate: float, decay: float) -> Sequence[Mapping[str, Any]]:
    """Its curve; [] if it diverged."""
    changed = {"learning_rate": rate, "scale_rate_with_batch": False, "weight_decay": decay}
    changed |= {"epochs": at.how.epochs, "patience": 0, "keep_every": 0}
    p = at.place.params.model_copy(update=changed)
    made = replace(at, place=replace(at.place, params=p)).ready()
    assert made.training is not None
    assert made.train is not None
    limits = Limits.of(p, device=at.place.device, alone=True)
    try:
        folder = at.runs / f"{rate!r}-{decay!r}"
        return fit(made.training, made.train, made.val, limits, folder=folder, key=at.runs.name).curve
    except DivergedError as e:
        log.info("rate %g with decay %g: %s", rate, decay, e)
        return []
