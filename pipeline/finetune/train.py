"""One run of training: from the checkpoint where a kill left it, to the weights of the best epoch."""

from __future__ import annotations

import logging
import resource
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader

from pipeline.finetune import checkpoints
from pipeline.finetune.batches import Batch
from pipeline.finetune.checkpoints import Keeper
from pipeline.finetune.live import LiveCurve
from pipeline.finetune.training import Training

log = logging.getLogger(__name__)

# Ours -> Lightning's name; parameters stay in float32, bf16 is that of the products.
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Limits:
    """When a run ends and what is kept; see FinetuneParams."""

    epochs: int
    clip: float
    accumulate: int
    select: str
    patience: int
    keep_every: int
    precision: str
    device: str


@dataclass(frozen=True)
class Fitted:
    """`curve`: see Training. `train_s`: of all epochs, those before a kill included. `peak_memory_bytes`: of the GPU's
    memory, or of this process."""

    curve: list[dict[str, Any]]
    best_epoch: int
    train_s: float
    peak_memory_bytes: int


def fit(
    training: Training,
    train: DataLoader[Batch],
    val: DataLoader[Batch] | None,
    limits: Limits,
    *,
    folder: Path,
    key: str,
    live: Path | None = None,
) -> Fitted:
    """Trains to the end, from `folder`'s last checkpoint if there is one; `training` then has the best epoch's weights.

    `key` names all that changes the result; `live`: where the curve is written while it grows. Raises UserError if the
    loss or a gradient stops being a number (the checkpoints are kept), if the checkpoint is not of this run, and if the
    disk is full.
    """
    keeper = Keeper(folder, key, select=limits.select, patience=limits.patience, keep_every=limits.keep_every)
    start = checkpoints.last(folder, key)
    if start is not None:
        log.info("going on from %s", start)
    folder.mkdir(parents=True, exist_ok=True)
    if limits.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with warnings.catch_warnings():
        # Lightning advises on loggers, workers and log intervals that are meant as they are.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = _trainer([keeper, *([LiveCurve(live)] if live else [])], limits, folder)
        trainer.fit(
            training,
            train,
            val,
            ckpt_path=None if start is None else str(start),
            weights_only=True,
        )
    checkpoints.load_best(training, folder)
    training.to(limits.device).eval()
    return Fitted(
        curve=training.curve,
        best_epoch=keeper.best_epoch,
        train_s=sum(training.seconds),
        peak_memory_bytes=peak_memory_bytes(limits.device),
    )


def _trainer(callbacks: list[L.Callback], limits: Limits, folder: Path) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return L.Trainer(
        accelerator=limits.device,
        devices=1,
        precision=PRECISIONS[limits.precision],  # type: ignore[arg-type]
        max_epochs=limits.epochs,
        accumulate_grad_batches=limits.accumulate,
        gradient_clip_val=limits.clip or None,
        callbacks=callbacks,
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        use_distributed_sampler=False,
        default_root_dir=folder,
        deterministic="warn" if limits.device == "cuda" else None,
    )


def peak_memory_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
