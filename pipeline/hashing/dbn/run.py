"""One training run: where its randomness comes from, what it logs, and how it goes on after it was killed.

A phase goes on from an epoch that had ended. Each epoch draws from a generator of its own, seeded by the run's
seed, the phase and the epoch, so that a resumed run ends with the bytes of an undisturbed one (same device, same number
of threads). Torch's global generator and settings are left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from pipeline.base import json_files
from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.hashing import epochs as kept

Record: TypeAlias = dict[str, float | int | str]


@dataclass
class Run:
    """`so_far`: of this very run, a piece a phase. `history` has one record an epoch; `watch` is told each."""

    seed: int
    device: torch.device
    so_far: SoFar = NOTHING
    watch: Callable[[Record], None] | None = None
    history: list[Record] = field(default_factory=list)

    def generator(self, *what: str | int) -> torch.Generator:
        """A generator on the run's device for one named purpose."""
        number = int(json_files.fingerprint([self.seed, *what])[:15], 16)
        return torch.Generator(self.device).manual_seed(number)

    def order(self, rows: int, batch: int, *what: str | int) -> tuple[Tensor, ...]:
        """Row numbers 0 .. rows-1, shuffled and cut into batches."""
        order = torch.randperm(rows, generator=self.generator("order", *what), device=self.device)
        return torch.split(order, batch)

    def restore(self, phase: str, tensors: dict[str, Tensor], epochs: int) -> int:
        """Sets a phase's `tensors` to what was kept of it, adds its records to the history, returns how many of its
        `epochs` are done: 0 if nothing that can be used was kept.
        """
        part = self.so_far.part(phase).found()
        arrays = kept.usable(epochs, tensors, part)
        if part is None or arrays is None:
            return 0
        kept.restore(tensors, arrays)
        self.history += part.values["records"]
        return int(part.values["epochs"])

    def keep(self, phase: str, epochs: int, tensors: dict[str, Tensor], values: Record) -> None:
        """Logs one epoch of a phase, has its state kept, then tells `watch`."""
        record: Record = {"phase": phase, "epoch": epochs, **values}
        self.history.append(record)
        records = [r for r in self.history if r["phase"] == phase]
        self.so_far.part(phase).keep(functools.partial(kept.state, epochs, tensors, records=records))
        if self.watch is not None:
            self.watch(record)
