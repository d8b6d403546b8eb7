"""The network that made a collection's codes, ready for queries."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.data.room import Room
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.codes import Embedder
    from pipeline.nets.weights import Weights

log = logging.getLogger(__name__)

WEIGHTS = "weights"


class Network:
    """Loaded when it is first needed. For several threads: images go through one at a time."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any], room: Room) -> None:
        """`room`: the memory that images may take."""
        self._folder, self._made_by = folder, made_by
        self.room = room
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
                self._embedder = Embedder(self.weights, *settings, room=self.room)
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
        """The settings of the codes for one image, on the processor where the device that made them is not here."""
        from pipeline.codes.settings import Settings, resolve_device, resolve_precision

        made = Settings.from_json(self._made_by["codes"][spec]["settings"])
        settings = made.as_json() | {"images_per_batch": 1}
        try:
            resolve_device(settings["device"])
        except UserError:
            log.warning("%s made these codes and is not here: distances may differ slightly", settings["device"])
            return settings | {"device": "cpu", "precision": resolve_precision("auto", "cpu"), "compile": False}
        return settings


def weights_file(folder: Path, made_by: Mapping[str, Any]) -> Path:
    """Where the collection's network lies. Raises UserError if something else than a file of the folder's is there."""
    path = folder / WEIGHTS / f"{made_by['weights']['sha256']}.safetensors"
    if os.path.lexists(path) and not (path.is_file() and path.resolve().parent == folder.resolve() / WEIGHTS):
        raise UserError(f"{path} is not a file of the index", allowed="a regular file, no link", see="`cnncodes index`")
    return path
