"""The network that made a collection's codes, ready for queries."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.data.room import Room

if TYPE_CHECKING:
    from pipeline.codes import Embedder
    from pipeline.nets.weights import Weights

WEIGHTS = "weights"


@dataclass(frozen=True)
class Where:
    """What queries are computed by: `room`, the memory that their images may take; `device` and `precision`, those of
    the collection's codes if None (`codes.settings.settings_here`). Raises UserError on one that is not here."""

    room: Room = field(default_factory=Room)
    device: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        from pipeline.codes.settings import resolve_device, resolve_precision

        device = "cpu" if self.device is None else resolve_device(self.device)
        if self.precision is not None:
            resolve_precision(self.precision, device)


class QueryNetwork:
    """Loaded when it is first needed. For several threads: images go through one at a time."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any], where: Where) -> None:
        self._folder, self._made_by = folder, made_by
        self.where = where
        self._embedder: Embedder | None = None
        self._lock = threading.Lock()

    def serves(self, made_by: Mapping[str, Any]) -> bool:
        """Whether it is the network of an index that says so of itself."""
        return all(self._made_by[key] == made_by[key] for key in ("weights", "codes"))

    def embed(self, image: str | Path | bytes) -> dict[str, NDArray[Any]]:
        """Codes of an image by spec, each (1, d), from one pass. Raises UserError if it can't be read.

        It goes through alone, where the collection's went in batches padded to one size: its float32 values may differ
        from theirs in the last digits, and cost a batch less time.
        """
        from pipeline.codes import Embedder

        with self._lock:
            if self._embedder is None:
                settings = map(self._settings_here, self._made_by["codes"])
                self._embedder = Embedder(self.weights, *settings, room=self.where.room)
            return self._embedder.every([image])

    @cached_property
    def weights(self) -> Weights:
        """Raises UserError unless they are those that made the codes."""
        from pipeline.nets.weights import read_canonical

        weights = read_canonical(weights_file(self._folder, self._made_by))
        if weights.sha256 != self._made_by["weights"]["sha256"]:
            raise UserError(
                f"{self._folder} holds other weights than those that made its codes", see="`cnncodes index`"
            )
        return weights

    def _settings_here(self, spec: str) -> dict[str, Any]:
        """The settings of the codes for one image."""
        from pipeline.codes.settings import settings_here

        made = self._made_by["codes"][spec]["settings"]
        return settings_here(made, device=self.where.device, precision=self.where.precision) | {"images_per_batch": 1}


def weights_file(folder: Path, made_by: Mapping[str, Any]) -> Path:
    """Where the collection's network lies. Raises UserError if something else than a file of the folder's is there."""
    path = folder / WEIGHTS / f"{made_by['weights']['sha256']}.safetensors"
    if os.path.lexists(path) and not (path.is_file() and path.resolve().parent == folder.resolve() / WEIGHTS):
        raise UserError(f"{path} is not a file of the index", allowed="a regular file, no link", see="`cnncodes index`")
    return path
