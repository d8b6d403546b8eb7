"""One run of training: from the checkpoint where a kill left it, to the weights of the best epoch."""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import distributed
from torch.utils.data import DataLoader

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.config import FinetuneParams
from pipeline.strategies import checkpoints, devices
from pipeline.strategies.batches import Batch, Part, part_of
from pipeline.strategies.checkpoints import Files, Keeper
from pipeline.strategies.expected import ExpectedTime, Work
from pipeline.strategies.kept import Keeping
from pipeline.strategies.live import LiveCurve
from pipeline.strategies.nodes import Nodes
from pipeline.strategies.signals import AsTheyCame
from pipeline.strategies.told import EpochLines
from pipeline.strategies.training import Training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """When a run ends, what is kept, and what it runs on; see FinetuneParams. `devices`: of each machine."""

    epochs: int
    clip: float
    select: str
    patience: int
    keep_every: int
    device: str
    devices: int

    @classmethod
    def of(cls, p: FinetuneParams, *, device: str, alone: bool) -> Limits:
        """`device` resolved; `alone`: on one device, whatever `p` asks for."""
        devices = 1 if alone else p.devices
        return cls(p.epochs, p.clip, p.select, p.patience, p.keep_every, device, devices)


@dataclass(frozen=True)
class Fitted:
    """`curve`: see Training. `train_s`: of all epochs, those before a kill included. `peak_memory_bytes`: of the GPU's
    memory, or of the process; of several devices the highest."""

    curve: list[dict[str, Any]]
    best_epoch: int
    train_s: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Loop:
    """What all processes of a run are told; `start`: the checkpoint to go on from. See `fit`."""

    limits: Limits
    folder: Path
    key: str
    live: Path | None
    work: Work | None
    start: Path | None
    nodes: Nodes
    keeping: Keeping | None = None


def fit(
    training: Training,
    train: DataLoader[Batch],
    val: DataLoader[Batch] | None,
    limits: Limits,
    *,
    folder: Path,
    key: str,
    live: Path | None = None,
    work: Work | None = None,
    nodes: Nodes | None = None,
    keeping: Keeping | None = None,
) -> Fitted:
    """Trains to the end, from `folder`'s last checkpoint if there is one; `training` then has the best epoch's weights.

    `key` names all that changes the result; `live`: where the curve is written while it grows; `work`: what the time is
    to be said of; `nodes`: the machines that train, of which this is the first (`follow` is for the others); `keeping`:
    where checkpoints of every `keep_every` epochs go. Raises UserError if the loss or a gradient stops being a number
    (the checkpoints are kept), if the checkpoint is not of this run, if the disk is full, and if another process or
    machine is lost.
    """
    loop = Loop(limits, folder, key, live, work, _start(folder, key), nodes or Nodes(), keeping)
    peak = _loop(training, train, val, loop)
    if keeping is not None:
        checkpoints.show_kept(folder, keeping)  # a training that was over before it was killed begins no more
    end = checkpoints.read(folder / checkpoints.LAST)
    training.on_load_checkpoint(end)
    checkpoints.load_best(training, folder)
    training.to(limits.device).eval()
    return Fitted(
        curve=training.curve,
        best_epoch=checkpoints.best_epoch(end),
        train_s=sum(training.seconds),
        peak_memory_bytes=peak,
    )


def follow(
    training: Training,
    train: DataLoader[Batch],
    val: DataLoader[Batch] | None,
    limits: Limits,
    *,
    folder: Path,
    key: str,
    nodes: Nodes,
) -> None:
    """`fit` on a machine that is not the first: it trains along, and leaves what comes of it to that one."""
    _loop(training, train, val, Loop(limits, folder, key, None, None, _start(folder, key), nodes))


def _start(folder: Path, key: str) -> Path | None:
    start = checkpoints.last(folder, key)
    if start is not None:
        log.info("going on from %s", start)
    folder.mkdir(parents=True, exist_ok=True)
    return start


def _loop(training: Training, train: DataLoader[Batch], val: DataLoader[Batch] | None, loop: Loop) -> int:
    """In this process, or in one for each device. Returns the peak of memory."""
    count, nodes = loop.limits.devices, loop.nodes
    if count * nodes.count == 1:
        return _run(training, train, val, loop, strategy="auto")
    log.info("training on %d devices, a process each", count * nodes.count)
    training.to("cpu")
    work = (training, train, val, loop)
    peak: int = devices.spread(_one_of, work, count=count, device=loop.limits.device, nodes=nodes, run=loop.key)
    return peak


def _one_of(part: Part, training: Training, train: DataLoader[Batch], val: DataLoader[Batch] | None, loop: Loop) -> int:
    """What each process does: the same loop on its part of every batch. Returns the peak of them all."""
    _require_one_start(loop, part)
    own, parts = part_of(train, part)
    training.take_part(parts)
    strategy = DDPStrategy(
        find_unused_parameters=any(g.multiple > 0 and g.from_epoch > 0 for g in training.groups),
        # Norms are brought together once an epoch; see Training.
        broadcast_buffers=False,
    )
    peak = _run(training, own, None if val is None else part_of(val, part)[0], loop, strategy=strategy)
    # The trainer has brought the module back to the CPU, and NCCL adds up on its devices alone.
    highest = torch.tensor(peak, device=loop.limits.device)
    distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    return int(highest)


def _require_one_start(loop: Loop, part: Part) -> None:
    """Raises UserError if machines would go on from different checkpoints."""
    if loop.nodes.count == 1:
        return
    own = 0 if loop.start is None else int(disk.sha256(loop.start)[:15], 16)
    starts = [torch.zeros((), dtype=torch.int64, device=loop.limits.device) for _ in range(part.world)]
    distributed.all_gather(starts, torch.tensor(own, device=loop.limits.device))
    names = [f"{int(start):015x}"[:8] if start else "none" for start in starts]
    if len(set(names)) > 1:
        raise UserError(
            f"machines would go on from different checkpoints: {', '.join(names)}, by device",
            allowed="one cache folder that all machines see",
            see="docs/params.md",
        )


def _run(
    training: Training,
    train: DataLoader[Batch],
    val: DataLoader[Batch] | None,
    loop: Loop,
    *,
    strategy: str | Strategy,
) -> int:
    """Lightning's loop to its end. Returns the peak of memory."""
    limits, as_they_came = loop.limits, AsTheyCame()
    _forget_peak(limits.device)
    if loop.start is not None:
        checkpoints.begin_at(loop.start, train, val)
    with warnings.catch_warnings(), as_they_came.passing():
        # Lightning advises on loggers, workers and log intervals that are meant as they are.
        warnings.filterwarnings("ignore", module="lightning")
        _trainer(loop, strategy, training.recipe.steps.accumulate, as_they_came).fit(
            training,
            train,
            val,
            ckpt_path=None if loop.start is None else str(loop.start),
            weights_only=True,
        )
    return peak_memory_bytes(limits.device)


def _trainer(loop: Loop, strategy: str | Strategy, accumulate: int, as_they_came: AsTheyCame) -> L.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    limits = loop.limits
    keeper = Keeper(
        loop.folder,
        loop.key,
        select=limits.select,
        patience=limits.patience,
        keep_every=limits.keep_every,
        keeping=loop.keeping,
    )
    return L.Trainer(
        accelerator=limits.device,
        devices=limits.devices,
        num_nodes=loop.nodes.count,
        strategy=strategy,
        plugins=[Files(), *([] if strategy == "auto" else [LightningEnvironment()])],
        max_epochs=limits.epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=limits.clip or None,
        callbacks=[
            keeper,
            as_they_came,
            *([LiveCurve(loop.live)] if loop.live else []),
            *([ExpectedTime(loop.work)] if loop.work else []),
            *([] if sys.stderr.isatty() else [EpochLines()]),
        ],
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        use_distributed_sampler=False,
        default_root_dir=loop.folder,
        deterministic="warn" if limits.device == "cuda" else None,
    )


def _forget_peak(device: str) -> None:
    """So that a run's peak is not that of the run before; of a process only Linux can."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
