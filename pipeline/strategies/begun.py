"""An epoch under way: what a checkpoint within it holds beside weights, optimiser and the loop's counters.

The order of images and what is drawn for a step are functions of seed, epoch and step, so that no generator is kept.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

if TYPE_CHECKING:
    from pipeline.strategies.training import Sums, Training


def state_of(training: Training, batches: int, val_batches: int) -> dict[str, Any]:
    """Plain values and tensors; `batches` of training and `val_batches` of validation are done. All processes call it.

    `own`: of each process its sums and its norms, which are brought together at the epoch's end.
    """
    own = {
        "train": _sums(training.train_sums),
        "val": _sums(training.val_sums),
        "norms": {} if training.parts is None else {n: b.cpu() for n, b in _norms(training).items()},
    }
    every: list[Any] = [own]
    if training.parts is not None:
        every = [None] * training.parts.part.world
        distributed.all_gather_object(every, own)
    seconds = time.perf_counter() - training.started_s
    return {"batches": batches, "val_batches": val_batches, "seconds": seconds, "own": every}


def restore(training: Training, state: dict[str, Any]) -> None:
    """The inverse, on the device where the module is by now."""
    own = state["own"][training.parts.part.rank if training.parts is not None else 0]
    for sums, kept in ((training.train_sums, own["train"]), (training.val_sums, own["val"])):
        for name, value in kept.items():
            setattr(sums, name, value.clone().to(training.device) if isinstance(value, Tensor) else value)
    norms = _norms(training)
    with torch.no_grad():
        for name, value in own["norms"].items():
            norms[name].copy_(value)
    training.started_s = time.perf_counter() - state["seconds"]


def _sums(sums: Sums) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in vars(sums).items()}


def _norms(training: Training) -> dict[str, Tensor]:
    """Statistics of every batch norm."""
    return {
        f"{module_name}.{name}": buffer
        for module_name, module in training.model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, buffer in module.named_buffers(recurse=False)
    }
