"""How long a strategy will take, said once its first steps show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L

from pipeline.base.counting import counted
from pipeline.base.progress import Pace
from pipeline.strategies.training import Training

# A pass forward beside a step, which goes back too: the products of the layers' inputs and of their weights.
_FORWARD = 1 / 3


@dataclass(frozen=True)
class Work:
    """What a strategy does: images of a split, and passes over them. `views` of each test image."""

    train: int
    val: int
    test: int
    views: int
    epochs: int
    repeats: int

    @property
    def epoch(self) -> float:
        """In training images."""
        return self.train + _FORWARD * self.val

    @property
    def total(self) -> float:
        return self.repeats * (self.epochs * self.epoch + _FORWARD * self.test * self.views)

    def __str__(self) -> str:
        splits = f"{self.repeats} splits" if self.repeats > 1 else "one split"
        return f"for {splits} of up to {counted(self.epochs, 'epoch')}"


class ExpectedTime(L.Callback):
    """Where an epoch has few steps, after the first epoch; where a later epoch trains more, again of what is left."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.pace = Pace(work.total, str(work))
        self.trained = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that goes on within an epoch does not begin it."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        epoch = trainer.current_epoch
        trained = sum(group.trained(epoch) for group in pl_module.groups)
        if trained != self.trained:
            left = self.work.total - epoch * self.work.epoch
            where = str(self.work) if self.trained < 0 else f"more, from epoch {epoch + 1} on, which trains more"
            self.pace, self.trained = Pace(left, where), trained

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            self.pace.advance(self.work.train / trainer.num_training_batches)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.pace.advance(_FORWARD * self.work.val)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not self.pace.said:
            self.pace.say()
