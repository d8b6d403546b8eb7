"""Codes of a handful of new images, with the same bytes as extraction would give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.codes import loading
from pipeline.codes.settings import Settings, resolve_device
from pipeline.codes.weights_header import WeightsHeader
from pipeline.data.room import Room

if TYPE_CHECKING:
    from pipeline.nets.weights import Weights

# Pillow's own limit: an image beyond it is refused as a decompression bomb.
MAX_PIXELS = 178_956_970


class ImagesError(UserError):
    """Images that have no codes. `reasons`: why, in words, one each."""

    def __init__(self, what: str, reasons: Sequence[str]) -> None:
        super().__init__(what)
        self.reasons = list(reasons)


class Embedder:
    """A network kept ready: call it with images, as often as wanted. Not for several threads at once."""

    def __init__(
        self,
        weights: Weights | str | Path,
        settings: Mapping[str, Any],
        *more: Mapping[str, Any],
        max_pixels: int = MAX_PIXELS,
        room: Room | None = None,
    ) -> None:
        """`settings` are `Codes.settings`; `more` those of other layers of the same images, from the same pass. `room`:
        the memory that images may take, of the preset's size if None.

        Raises UserError if the weights are others than those that made the codes, or their device is not here.
        """
        from pipeline.codes.forward import Forward

        self.settings = Settings.from_json(settings)
        self.max_pixels = max_pixels
        self._room = room or Room()
        resolve_device(self.settings.device)
        header = WeightsHeader.of(weights)
        every = [self.settings, *map(Settings.from_json, more)]
        self._dims = {s.spec.name: s.dim(num_classes=header.num_classes) for s in every}
        self.dim = self._dims[self.settings.spec.name]
        self._forward = Forward(header.load(), every)

    def __call__(self, images: Sequence[str | Path | bytes]) -> NDArray[Any]:
        """Files, or their bytes -> (n, dim) rows in the order given, each as extraction would make it.

        Raises one ImagesError naming every image that can't be read, or alone needs more memory than the room has.
        """
        return self.every(images)[self.settings.spec.name]

    def every(self, images: Sequence[str | Path | bytes]) -> dict[str, NDArray[Any]]:
        """As a call, for all layers: spec name -> (n, dim)."""
        rows, failures = self.readable(images)
        if failures:
            why = dict(sorted(failures.items()))
            named = ", ".join(f"{_name(images[i], i)} ({reason})" for i, reason in why.items())
            came = f"{len(why)} of {counted(len(images), 'image')}"
            raise ImagesError(f"{came} cannot be read: {named}", list(why.values()))
        return rows

    def readable(
        self, images: Sequence[str | Path | bytes], *, open_file: Callable[[Path], BinaryIO] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[int, str]]:
        """As `every`, of the images that can be read: the rows of others are zeros, and the second dict has their
        positions and why. `open_file` opens a file to be read, `Path.open` if None.
        """
        from pipeline.codes.extraction import require_finite

        sources = [
            loading.Source((image if isinstance(image, bytes) else Path(image),), None, self.max_pixels, open_file)
            for image in images
        ]
        rows = {name: np.zeros((len(sources), dim), dtype=self.settings.dtype) for name, dim in self._dims.items()}
        failures: dict[int, str] = {}
        done = 0
        pinned = self._forward.device.type == "cuda"
        for batch in loading.batches(sources, self._forward.specs, room=self._room, pinned=pinned):
            failures |= {done + i: why for i, why in batch.failures.items()}
            kept = [i for i in range(len(batch.sources)) if i not in batch.failures]
            if kept:
                result = self._forward.launch(batch)()
                require_finite(result, batch, self._forward)
                for name, values in result.rows.items():
                    rows[name][[done + i for i in kept]] = values[kept]
            done += len(batch.sources)
        return rows, failures


def embed(
    images: Sequence[str | Path | bytes], weights: Weights | str | Path, settings: Mapping[str, Any]
) -> NDArray[Any]:
    """(n, dim) codes of new images, made as `settings` (`Codes.settings`) say. Raises UserError, see `Embedder`."""
    return Embedder(weights, settings)(images)


def _name(image: str | Path | bytes, position: int) -> str:
    return f"image {position + 1}" if isinstance(image, bytes) else str(image)
