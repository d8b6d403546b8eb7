"""The pixels that an exported model sees of an image: made as training made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.codes import loading
from pipeline.codes.cost import made_bytes
from pipeline.codes.embedder import MAX_PIXELS
from pipeline.codes.settings import Settings
from pipeline.data.cost import Header
from pipeline.data.room import NoRoomError, Room
from pipeline.portable.about import About

Pixels = NDArray[np.uint8]
Open = Callable[[Path], BinaryIO]


class Shown:
    """(size, size, 3) uint8 RGB of image files."""

    def __init__(self, about: About, room: Room, where: object) -> None:
        """Raises UserError if a record of how codes are made contradicts the rest, or this version can't make them."""
        self._about, self._room = about, room
        self._settings = None
        if about.codes is not None:
            found = Settings.from_json(about.codes)
            if (found.crop, found.scales, found.view) != (about.size, (about.scale,), about.view):
                raise UserError(f"{where} says two things of its images' size", see="docs/export-model.md")
            self._settings = found.model_copy(update={"flip": False})  # the model mirrors them itself

    def __call__(self, file: Path, open_file: Open | None = None) -> Pixels | str:
        """Or in words why the file can't be read."""
        return self._tuned(file, open_file) if self._settings is None else self._head(file, self._settings, open_file)

    def _head(self, file: Path, settings: Settings, open_file: Open | None) -> Pixels | str:
        def admit(header: Header) -> None:
            side = self._about.size
            try:
                self._room.require(made_bytes(header, view=settings.view, sizes=[(side, side)]))
            except NoRoomError as e:
                raise loading.ImageError(f"{header.width} x {header.height} pixels: {e}") from None

        try:
            (view,) = loading.load_views(loading.Source((file,), None, MAX_PIXELS, open_file), settings, admit)
        except loading.ImageError as e:
            return str(e)
        return view

    def _tuned(self, file: Path, open_file: Open | None) -> Pixels | str:
        from pipeline.strategies import images

        about = self._about
        view = images.CachedView(about.view, about.scale, about.background)
        try:
            found = images.from_file(
                file, view, digest=None, max_pixels=MAX_PIXELS, room=self._room, open_file=open_file
            )
        except NoRoomError as e:
            return str(e)
        if isinstance(found, str):
            return found
        start = (about.scale - about.size) // 2  # as strategies.augment.centre
        return found[start : start + about.size, start : start + about.size]
