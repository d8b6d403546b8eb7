"""How far a sweep of learning rates has come: a run that was stopped leaves it, and the next one goes on from there."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from pipeline.base import disk, stopping
from pipeline.base.errors import UserError
from pipeline.strategies import tree
from pipeline.strategies.training import Training

FILE = "sweep.safetensors"
log = logging.getLogger(__name__)


@dataclass
class Curve:
    """`losses`, smoothed, of the steps that are done, a rate each; `average`: what the next one is smoothed by."""

    losses: list[float] = field(default_factory=list)
    average: float = 0.0


class SoFar:
    """The state of one sweep, written every half a minute (`stopping.Timer`) to a file of its own in `folder`, which is
    named by all that changes the sweep; None: nothing is kept.

    Order and dropout of a step are functions of its number, so that no generator is part of it.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._fails = folder, False
        self._timer = stopping.Timer()
        self._done = 0

    def found(self, trial: Training, optimiser: Optimizer, *, steps: int) -> Curve | None:
        """Sets both to what an earlier run left of a sweep of `steps`, and gives its curve; an empty one if it left
        nothing, and None if that can't be used: both may be spoiled then.
        """
        if self._folder is None or not (self._folder / FILE).is_file():
            return Curve()
        try:
            state = tree.read(self._folder / FILE)
            own, model = trial.trained_state(), state["model"]
            fits = model.keys() == own.keys() and all(
                model[n].shape == own[n].shape and model[n].dtype == own[n].dtype and torch.isfinite(model[n]).all()
                for n in own
            )
            if not fits or state["torch"] != torch.__version__ or not 0 < len(state["losses"]) <= steps:
                return None
            trial.load_state_dict(model, strict=False)
            optimiser.load_state_dict(state["optimiser"])
            curve = Curve([float(loss) for loss in state["losses"]], float(state["average"]))
        except (UserError, AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError):
            return None
        self._done = len(curve.losses)
        log.info("going on after %d of %d steps, from %s", self._done, steps, self._folder / FILE)
        return curve

    def keep(self, trial: Training, optimiser: Optimizer, curve: Curve) -> None:
        """Between two steps; writes when it is time."""
        if self._folder is None or self._fails or not self._timer.is_due():
            return
        started_s = time.monotonic()
        state: dict[str, Any] = {
            "torch": torch.__version__,
            "losses": curve.losses,
            "average": curve.average,
            "model": trial.trained_state(),
            "optimiser": optimiser.state_dict(),
        }
        try:
            with disk.atomic_path(self._folder / FILE) as tmp:
                tree.write(tmp, state)
        except (UserError, OSError) as e:
            log.warning("the steps that are done can't be kept, and a stop would cost them: %s", e)
            self._fails = True
            return
        self._done = len(curve.losses)
        self._timer.written(time.monotonic() - started_s)

    def told(self, steps: int) -> str:
        """What a stop leaves, in words; "" if that is nothing."""
        return f"{self._done} of {steps} steps of the sweep are kept; {stopping.GOES_ON}" if self._done else ""

    def remove(self) -> None:
        """Once the results are written."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


NOTHING = SoFar(None)
