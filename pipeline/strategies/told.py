"""A line an epoch, where no terminal shows Lightning's progress: in a log, by cron or under DVC."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L

from pipeline.strategies.training import Training

log = logging.getLogger(__name__)


class EpochLines(L.Callback):
    """Logs each epoch once its record is made, which is after this callback's hook of an epoch's end."""

    def __init__(self) -> None:
        self.told = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Epochs before a kill were told then."""
        assert isinstance(pl_module, Training)
        self.told = len(pl_module.curve)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell(trainer, pl_module)

    def _tell(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.is_global_zero:
            for row, spent_s in list(zip(pl_module.curve, pl_module.seconds, strict=True))[self.told :]:
                log.info("%s", line(row, spent_s, epochs=trainer.max_epochs))
        self.told = len(pl_module.curve)


def line(row: Mapping[str, Any], spent_s: float, *, epochs: int | None) -> str:
    """A record of the curve in words; the rate is the highest of all groups."""
    parts = [f"training loss {row['train_loss']:.4f}"]
    if row["val_loss"] is not None:
        parts += [f"validation loss {row['val_loss']:.4f}", f"validation accuracy {100 * row['val_accuracy']:.1f} %"]
    parts += [f"rate {max(row['rates'].values()):.2g}", f"{spent_s:.3g} s"]
    return f"epoch {row['epoch']} of {epochs}: {', '.join(parts)}"
