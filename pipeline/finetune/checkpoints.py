"""Checkpoints in the cache, where no stage's outs are: best, last, and one every n epochs; and when to stop.

The last one may lie within an epoch, if that takes long.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed
from torch.utils.data import DataLoader

from pipeline import schema, stopping
from pipeline.errors import UserError
from pipeline.finetune import batches
from pipeline.finetune.batches import Batch
from pipeline.finetune.training import Training

FOLDER = "finetune-runs"
BEST, LAST = "best.ckpt", "last.ckpt"
# What is monitored -> (column of the curve, sign that makes larger better).
SELECT = {"accuracy": ("val_accuracy", 1.0), "loss": ("val_loss", -1.0)}


class Keeper(Checkpoint):
    """Writes after every epoch, and within one that takes long, whole or not at all; stops the run once `patience`
    epochs brought nothing better.

    Of equal epochs the first is the best; without validation images the last is. `key` names the run: a checkpoint of
    another one is refused.
    """

    def __init__(self, folder: Path, key: str, *, select: str, patience: int, keep_every: int) -> None:
        self.folder, self.key = folder, key
        self.column, self.sign = SELECT[select]
        self.patience, self.keep_every = patience, keep_every
        self.best_epoch, self.best_value = 0, 0.0
        self.stopped = False
        self.timer = stopping.Timer()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        trainer.should_stop = self.stopped
        self.timer = stopping.Timer()
        # Of several processes some may have no validation images, and then wait for nobody.
        if trainer.world_size == 1:
            pl_module.before_val_batch = functools.partial(self._before_val_batch, trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps, where no gradients are under way."""
        assert isinstance(pl_module, Training)
        done = batch_idx + 1
        if not trainer.is_last_batch and done % trainer.accumulate_grad_batches == 0 and self._is_due(trainer):
            self._write_within(trainer, pl_module, done, 0)

    def _before_val_batch(self, trainer: L.Trainer, training: Training) -> None:
        if self._is_due(trainer):
            self._write_within(trainer, training, int(trainer.num_training_batches), training.val_batches)

    def _is_due(self, trainer: L.Trainer) -> bool:
        """All processes write at once, or none: the first one's clock counts."""
        due = self.timer.is_due()
        if trainer.world_size == 1:
            return due
        told = torch.tensor(due, dtype=torch.uint8, device=trainer.strategy.root_device)
        distributed.broadcast(told, src=0)
        return bool(told)

    def _write_within(self, trainer: L.Trainer, training: Training, done: int, val_done: int) -> None:
        training.within = (done, val_done)
        try:
            self._write(trainer, LAST)
        finally:
            training.within = None

    def _write(self, trainer: L.Trainer, name: str) -> None:
        started_s = time.monotonic()
        if trainer.is_global_zero:
            with schema.atomic_path(self.folder / name) as tmp:
                _save(trainer, tmp)
        else:
            # Writes nothing here: it waits until the first process has.
            trainer.save_checkpoint(self.folder / name)
        self.timer.written(time.monotonic() - started_s)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        row = pl_module.curve[-1]
        epoch, value = row["epoch"], row[self.column]
        is_best = value is None or self.best_epoch == 0 or self._is_better(value)
        if is_best:
            self.best_epoch, self.best_value = epoch, 0.0 if value is None else value
        if self.patience and epoch - self.best_epoch >= self.patience:
            self.stopped = trainer.should_stop = True
        # The last one is written last: a kill in between repeats this epoch, which writes the same best again.
        self._write(trainer, BEST if is_best else LAST)
        if not trainer.is_global_zero:
            return
        if is_best:
            _duplicate(self.folder / BEST, self.folder / LAST)
        if self.keep_every and epoch % self.keep_every == 0:
            _duplicate(self.folder / LAST, self.folder / f"epoch-{epoch:04d}.ckpt")

    def _is_better(self, value: float) -> bool:
        """Any number is better than none."""
        if math.isnan(self.best_value):
            return not math.isnan(value)
        return self.sign * (value - self.best_value) > 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_epoch, self.best_value = state_dict["best_epoch"], state_dict["best_value"]
        self.stopped = state_dict["stopped"]

    @property
    def state_key(self) -> str:
        return "cnncodes"


def last(folder: Path, key: str) -> Path | None:
    """The checkpoint to go on from, if there is one. Raises UserError if it is not of this run."""
    path = folder / LAST
    if not path.is_file():
        return None
    state = read(path)
    found = state.get("callbacks", {}).get("cnncodes", {}).get("key")
    if found != key:
        raise UserError(
            f"{path} is a checkpoint of another run or architecture", allowed="a checkpoint of this one, or none"
        )
    return path


def kept(folder: Path, epochs: int) -> str:
    """What a run of so many epochs that is stopped leaves, in words."""
    if not (folder / LAST).is_file():
        return "no epoch is done yet: the same command begins this training again"
    state = read(folder / LAST)
    begun = state.get("begun")
    within = f" and {begun['batches']} batches of the next" if begun else ""
    return f"{len(state['curve'])} of {epochs} epochs{within} are kept; {stopping.GOES_ON}"


def begin_at(start: Path, train: DataLoader[Batch], val: DataLoader[Batch] | None) -> None:
    """Has the batches of the epoch that a checkpoint lies in begin where it was written."""
    state = read(start)
    if begun := state.get("begun"):
        epoch = len(state["curve"])
        batches.begin_at(train, epoch, begun["batches"])
        if val is not None:
            batches.begin_at(val, epoch, begun["val_batches"])


def best_epoch(state: dict[str, Any]) -> int:
    """As a checkpoint of this module's has it."""
    found: int = state["callbacks"]["cnncodes"]["best_epoch"]
    return found


def read(path: Path) -> dict[str, Any]:
    """The content, tensors mapped from the file; no code of it is run. Raises UserError if it is broken."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as e:  # noqa: BLE001 (torch.load raises whatever a broken archive makes it trip over)
        raise UserError(f"{path} is not a whole checkpoint ({' '.join(str(e).split())[:200]}): delete it") from None
    return state


def load_best(training: Training, folder: Path) -> None:
    """The weights of the best epoch. Raises UserError if they are of another architecture."""
    path = folder / BEST
    state = read(path)["state_dict"]
    own = training.state_dict()
    wrong = sorted(n for n in state if n not in own or own[n].shape != state[n].shape)
    if wrong:
        raise UserError(f"{path} is a checkpoint of another architecture: {', '.join(wrong[:5])} don't fit")
    training.load_state_dict(state, strict=False)


def _save(trainer: L.Trainer, path: Path) -> None:
    """Lightning writes to the very file that is renamed afterwards; a full disk is the user's error."""
    try:
        trainer.save_checkpoint(path)
    except RuntimeError as e:
        # torch's writer hides the errno of a failed write.
        if shutil.disk_usage(path.parent).free < (1 << 20):
            raise UserError(f"no space left on the device while writing {path}", see="`cnncodes cache size`") from e
        raise


def _duplicate(source: Path, target: Path) -> None:
    """A second name for immutable content, or a copy where the file system has no links."""
    with schema.atomic_path(target) as tmp:
        tmp.unlink()
        try:
            os.link(source, tmp)
        except OSError:
            shutil.copyfile(source, tmp)
