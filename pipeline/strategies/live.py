"""Curves to watch while a run trains: dvclive's files, a folder a repeat, a line an epoch.

`out/finetune/<name>/live-curves/repeat-<r>/plots/metrics/` has `train/loss.tsv`, `train/accuracy.tsv`, the same of
`val/`, and `rate/<group>.tsv`: columns step (the epoch, from 1) and the value. They hold the numbers of curves.csv.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import lightning.pytorch as L
from dvclive.live import Live

from pipeline.base import disk
from pipeline.strategies.training import Training

FOLDER = "live-curves"
# Column of the curve -> the file's name under plots/metrics/.
COLUMNS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
}


class Files(Live):
    """dvclive's files and nothing else.

    No setting of dvclive keeps it from looking for a repository, where it makes a `.dvc` if git's has none, nor from
    sending to DVC Studio if the environment has a token: these two steps of its start are left out.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_dvc_exp=False, dvcyaml=None)

    def _init_dvc(self) -> None:
        pass

    def _init_studio(self) -> None:
        pass


class LiveCurve(L.Callback):
    """Writes every epoch's record into `folder` once its checkpoint is written, those before a kill first.

    Of several processes the first alone has `files`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: Files | None = None
        self.shown = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The checkpoint, if any, has given the module its curve."""
        assert isinstance(pl_module, Training)
        if not trainer.is_global_zero:
            return
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.files, self.shown = Files(self.folder), 0
        except OSError as e:
            disk.raise_if_disk(e, self.folder)
            raise
        self._catch_up(pl_module.curve)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Of the epoch before: Lightning calls this callback's hook of an epoch's end before the record is made."""
        assert isinstance(pl_module, Training)
        self._catch_up(pl_module.curve)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._catch_up(pl_module.curve)

    def _catch_up(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Each value is a line of its own file, closed at once. Not by `next_step`, which writes into .dvc."""
        if self.files is None:
            return
        try:
            for row in curve[self.shown :]:
                self.files.step = row["epoch"]
                for name, value in _values(row):
                    self.files.log_metric(name, value)
        except OSError as e:
            disk.raise_if_disk(e, self.folder)
            raise
        self.shown = len(curve)


def clear(out: Path) -> None:
    """An empty folder, as DVC asks for every out of a stage: a run before may have had more repeats."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    try:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        disk.raise_if_disk(e, out / FOLDER)
        raise


def folder(out: Path, repeat: int) -> Path:
    return out / FOLDER / f"repeat-{repeat}"


def _values(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of what the record holds; a group's name as a file's, with other signs than these encoded."""
    for column, name in COLUMNS.items():
        if row[column] is not None:
            yield name, row[column]
    for group, rate in row["rates"].items():
        yield f"rate/{quote(group, safe=' ,()')}", rate
