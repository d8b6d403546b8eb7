"""Checkpoints in the cache, where no stage's outs are: best and last; and when to stop. They are `tree`s, so that no
code runs when one is read. Those that `keep_every` asks for are `kept`.

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
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed
from torch.utils.data import DataLoader

from pipeline.base import disk, stopping
from pipeline.base.errors import UserError
from pipeline.strategies import batches, tree
from pipeline.strategies.batches import Batch
from pipeline.strategies.kept import Keeping, files, name_of
from pipeline.strategies.kept import write as write_kept
from pipeline.strategies.training import Training

FOLDER = "finetune-runs"
BEST, LAST = "best.safetensors", "last.safetensors"
_NEXT = "next.safetensors"
# What is monitored -> (column of the curve, sign that makes larger better).
SELECT = {"accuracy": ("val_accuracy", 1.0), "loss": ("val_loss", -1.0)}


class Files(CheckpointIO):
    """What Lightning writes and reads checkpoints with."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        tree.write(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Keeper(Checkpoint):
    """Writes after every epoch, and within one that takes long, whole or not at all; stops the run once `patience`
    epochs brought nothing better.

    Of equal epochs the first is the best; without validation images the last is. `key` names the run: a checkpoint of
    another one is refused. `keeping`: where those of every `keep_every` epochs go; they are in `folder` too, since DVC
    removes what a killed stage wrote.
    """

    def __init__(
        self, folder: Path, key: str, *, select: str, patience: int, keep_every: int, keeping: Keeping | None = None
    ) -> None:
        self.folder, self.key = folder, key
        self.column, self.sign = SELECT[select]
        self.patience, self.keep_every, self.keeping = patience, keep_every, keeping
        self.best_epoch, self.best_value = 0, 0.0
        self.stopped = False
        self.timer = stopping.Timer()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        trainer.should_stop = self.stopped
        if self.keeping is not None and trainer.is_global_zero:
            show_kept(self.folder, self.keeping)
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
            with disk.atomic_path(self.folder / name) as tmp:
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
        # It becomes the last one at the end: a kill in between repeats this epoch, which writes all of it again.
        self._write(trainer, _NEXT)
        if not trainer.is_global_zero:
            return
        if is_best:
            _duplicate(self.folder / _NEXT, self.folder / BEST)
        if self.keeping is not None and self.keep_every and epoch % self.keep_every == 0:
            self._keep(self.keeping, pl_module)
        (self.folder / _NEXT).replace(self.folder / LAST)
        disk.sync(self.folder)

    def _keep(self, keeping: Keeping, training: Training) -> None:
        row = training.curve[-1]
        path = self.folder / name_of(row["epoch"])
        best = None if self.best_epoch == row["epoch"] else read(self.folder / BEST)["state_dict"]
        about = keeping.about | {"key": self.key, "best_epoch": self.best_epoch}
        about |= {name: value for name, value in row.items() if name != "rates"}
        with disk.atomic_path(path) as tmp:
            write_kept(tmp, about, state=read(self.folder / _NEXT), best=best, model=training.model.state_dict())
        _duplicate(path, keeping.out / path.name)

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
    """The content; no code of it is run. Raises UserError if it is broken."""
    state: dict[str, Any] = tree.read(path)
    return state


def seed(folder: Path, key: str, state: dict[str, Any], best: dict[str, Any], *, patience: int) -> None:
    """What a run with `key` goes on from, if its folder has no checkpoint yet: Lightning's `state`, and the weights of
    the best epoch so far."""
    if (folder / LAST).is_file():
        return
    own = state["callbacks"]["cnncodes"]
    stopped = bool(patience) and len(state["curve"]) - own["best_epoch"] >= patience
    state["callbacks"]["cnncodes"] = own | {"key": key, "stopped": stopped}
    for name, content in ((BEST, {"state_dict": best}), (LAST, state)):
        with disk.atomic_path(folder / name) as tmp:
            tree.write(tmp, content)


def load_best(training: Training, folder: Path) -> None:
    """The weights of the best epoch. Raises UserError if they are of another architecture."""
    path = folder / BEST
    state = read(path)["state_dict"]
    own = training.state_dict()
    wrong = sorted(n for n in state if n not in own or own[n].shape != state[n].shape)
    if wrong:
        raise UserError(f"{path} is a checkpoint of another architecture: {', '.join(wrong[:5])} don't fit")
    training.load_state_dict(state, strict=False)


def show_kept(folder: Path, keeping: Keeping) -> None:
    """Puts the checkpoints that were kept in `folder` beside the results, where they are not there."""
    for path in files(folder):
        if not (keeping.out / path.name).exists():
            _duplicate(path, keeping.out / path.name)


def _save(trainer: L.Trainer, path: Path) -> None:
    """Lightning writes to the very file that is renamed afterwards."""
    trainer.save_checkpoint(path)


def _duplicate(source: Path, target: Path) -> None:
    """A second name for immutable content, or a copy where the file system has no links."""
    if target.exists() and target.samefile(source):
        return
    with disk.atomic_path(target) as tmp:
        tmp.unlink()
        try:
            os.link(source, tmp)
        except OSError:
            shutil.copyfile(source, tmp)
