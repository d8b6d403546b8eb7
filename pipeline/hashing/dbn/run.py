"""One training run: where its randomness comes from, what it logs, and how it goes on after it was killed.

A phase is resumed from the last epoch that ended. Each epoch draws from a generator of its own, seeded by the run's
seed, the phase and the epoch, so that a resumed run ends with the bytes of an undisturbed one (same device, same number
of threads). Torch's global generator and settings are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pipeline.base import hdf5_files, json_files, plain_json
from pipeline.base.errors import UserError

Record: TypeAlias = dict[str, float | int | str]


@dataclass
class Run:
    """`folder`: where checkpoints go, None for none. `key`: fingerprint of all that decides the result.

    `history` has one record an epoch; `watch` is told each, after its checkpoint is on disk.
    """

    seed: int
    device: torch.device
    key: str
    folder: Path | None = None
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

    def restore(self, phase: str, tensors: dict[str, Tensor]) -> int:
        """Copies a phase's checkpoint into `tensors`, adds its records to the history, returns the epochs done.

        0 if there is no checkpoint or it belongs to another run. Raises UserError if it can't be read.
        """
        path = self._path(phase)
        if path is None or not path.exists():
            return 0
        try:
            with hdf5_files.opened(path) as f:
                if f.attrs["key"] != self.key:
                    return 0
                stored = {name: torch.from_numpy(f[name][...]) for name in tensors}
                records, epochs = plain_json.loads(f.attrs["records"]), int(f.attrs["epochs"])
        except (OSError, KeyError, ValueError, RuntimeError) as e:
            raise UserError(
                f"checkpoint {path} can't be read ({' '.join(str(e).split())[:200]})", allowed="a whole one, or none"
            ) from None
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])
        self.history += records
        return epochs

    def keep(self, phase: str, epochs: int, tensors: dict[str, Tensor], values: Record) -> None:
        """Logs one epoch of a phase, writes its checkpoint, then tells `watch`."""
        record: Record = {"phase": phase, "epoch": epochs, **values}
        self.history.append(record)
        path = self._path(phase)
        if path is not None:
            records: list[dict[str, Any]] = [r for r in self.history if r["phase"] == phase]
            with hdf5_files.new(path) as f:
                f.attrs["key"], f.attrs["epochs"] = self.key, epochs
                f.attrs["records"] = json_files.canonical(records)
                for name, tensor in tensors.items():
                    f.create_dataset(name, data=tensor.detach().cpu().numpy())
        if self.watch is not None:
            self.watch(record)

    def _path(self, phase: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{phase}.h5"
