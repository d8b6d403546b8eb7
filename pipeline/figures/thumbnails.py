"""Thumbnails of the dataset's images as data URIs."""

from __future__ import annotations

import base64
import functools
import io
from dataclasses import dataclass, field

from PIL import Image

from pipeline.data import listed
from pipeline.data.decode import DecodeError, decode
from pipeline.data.manifest import Manifest
from pipeline.figures.records.about import Picture

QUALITY = 72  # WebP, whose files are a third of a JPEG's at this size


@dataclass(frozen=True, eq=False)
class Album:
    """The images of a manifest, by row; `background` is the RGB under transparent pixels. `made`: name -> data URI of
    all thumbnails that were asked for."""

    manifest: Manifest
    background: tuple[int, int, int]
    made: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """id -> row."""
        return {str(image_id): row for row, image_id in enumerate(self.manifest.ids)}

    def picture(self, row: int, side: int) -> Picture:
        """Within side x side px, its proportions kept, and the image's path."""
        return Picture(self.thumbnail(row, side), self.name(row))

    def thumbnail(self, row: int, side: int) -> str:
        """The name of the image within side x side px; "" if the file is gone or another one.

        Codes may have been made on another machine, and the page is worth having without its pictures.
        """
        name = f"{side}/{self.manifest.ids[row]}"
        if name not in self.made:
            self.made[name] = self._draw(row, side)
        return name if self.made[name] else ""

    def _draw(self, row: int, side: int) -> str:
        """A data URI; "" as `thumbnail`."""
        try:
            # The manifest's own size is the limit: a file that was swapped for a larger one is not worth a wait.
            limit = int(self.manifest.widths[row] * self.manifest.heights[row])
            data = listed.read(self.manifest.file(row), str(self.manifest.sha256[row]))
            pixels = decode(data, background=self.background, max_pixels=limit, reduced_to=side, known_whole=True)
        except (listed.ListedError, DecodeError):
            return ""
        image = Image.fromarray(pixels)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, "WEBP", quality=QUALITY, method=4)
        return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")

    def label(self, row: int) -> str:
        """The image's class; '' without one."""
        return str(self.manifest.labels[row])

    def name(self, row: int) -> str:
        """The image's path below the root."""
        return str(self.manifest.paths[row])
