"""What images in flight take in memory on their way to codes, told from their headers before anything is decoded.

Each image passes four moments: it is decoded; its views are made of the pixels; they are gathered; the network works on
them. What is there at once at the highest of them counts. tests/codes/test_cost.py holds these sums against processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.codes.settings import Settings
from pipeline.data import views
from pipeline.data.cost import Header
from pipeline.nets import backbone

# Bytes a pixel: of a view, of Pillow's copy of an image, and of what Pillow gives back with its own copy.
_VIEW, _PILLOW, _FROM_PILLOW = 3, 4, 10
# Of the network's input while it is normalised in float32, of which some stays.
_NORMALISED = 48
_FLOAT32 = 4
# Copies in float32 that a pooling makes of a map.
_POOLING_COPIES = {"gem": 3}


def made_bytes(header: Header, *, view: views.View, sizes: Sequence[tuple[int, int]], mirrored: int = 1) -> int:
    """Of decoding an image and making a view of each of `sizes` (width, height), and its mirror if `mirrored` is 2."""
    # Pillow resizes widths, then heights: in between it has the new width and the old height, or of an image that EXIF
    # turns the other side. Of a crop only what is kept is resized.
    between = 0 if view == "crop" else max(w for w, _ in sizes) * max(header.width, header.height)
    if view == "whole":
        between = max(w for w, _ in sizes) * header.height
    viewed = _VIEW * mirrored * sum(w * h for w, h in sizes)
    given = _FROM_PILLOW * max(w * h for w, h in sizes)
    return max(header.bytes, (_VIEW + _PILLOW) * header.width * header.height + _PILLOW * between + viewed + given)


class Cost:
    """Of images whose codes are made as `specs` say, which share all settings but layer and pooling."""

    def __init__(self, specs: Sequence[Settings]) -> None:
        self._specs = list(specs)
        self._common = specs[0]
        self._mirrored = 2 if self._common.flip else 1
        self._views_per_batch = self._common.images_per_batch * self._common.views_per_image

    def batch_bytes(self) -> int:
        """Of a batch's views of one size; 0 where images are whole."""
        s = self._common
        return 0 if s.crop is None else self._views_per_batch * _VIEW * s.crop**2

    def batch_network_bytes(self) -> int:
        """Of the network at work on such a batch; 0 where images are whole, which count it each for itself.

        A GPU's maps are in its own memory, and made in parts where that is small.
        """
        s = self._common
        if s.crop is None or s.device != "cpu":
            return 0
        return self.network_bytes(s.crop, s.crop, self._views_per_batch)

    def image_bytes(self, header: Header) -> int:
        """Of one image, with the network at work on it where it is a batch of its own; 0 if it can't be decoded."""
        if not header.bytes:
            return 0
        sizes, view = self._sizes(header), self._common.view
        most = made_bytes(header, view=view, sizes=sizes, mirrored=self._mirrored)
        if view == "crop" and self._common.geometry == "torchvision":  # all of it is resized, then cut
            whole = [self._scaled(header, scale) for scale in self._common.scales]
            most = max(most, made_bytes(header, view="whole", sizes=whole, mirrored=self._mirrored))
        if self._common.view == "whole":
            viewed = self._mirrored * _VIEW * sum(w * h for w, h in sizes)
            network = max(self.network_bytes(h, w, self._mirrored) for w, h in sizes)
            most = max(most, 2 * viewed, viewed + network)
        return most

    def network_bytes(self, height: int, width: int, count: int) -> int:
        """Of `count` inputs: the maps that are there at once, at the highest, and what is made to pool them."""
        s = self._common
        bytes_per_value = _FLOAT32 if s.precision == "fp32" else 2
        asked = {spec.layer for spec in self._specs}
        highest, left = backbone.find(s.arch).values_at_once(asked, height, width)
        working = count * (highest * bytes_per_value + _NORMALISED * height * width)
        return max(working, count * left * bytes_per_value + self._pooling_bytes(height, width, count))

    def _pooling_bytes(self, height: int, width: int, count: int) -> int:
        """Copies in float32. A processor makes them of a batch's maps one by one, but for those that are flattened; the
        copy of the map before may still be there."""
        one_by_one = self._common.device == "cpu" and self._common.precision != "fp32"
        found = []
        for spec in self._specs:
            copies = _POOLING_COPIES.get(spec.pooling, 1)
            copies = copies + 1 if one_by_one and spec.pooling != "flatten" else copies * count
            found.append(copies * _FLOAT32 * self._values(spec.layer, height, width))
        return max(found)

    def _sizes(self, header: Header) -> list[tuple[int, int]]:
        """(width, height) of the view at each scale."""
        s = self._common
        if s.crop is None:
            return [self._scaled(header, scale) for scale in s.scales]
        return [(s.crop, s.crop)] * len(s.scales)

    def _scaled(self, header: Header, scale: int) -> tuple[int, int]:
        return views.scaled_size(header.width, header.height, scale, self._common.geometry)

    def _values(self, layer: str, height: int, width: int) -> int:
        about = backbone.find(self._common.arch)
        own = about.native_size
        if self._common.crop is None and about.codes:
            # Facts of each size of whole images would cost more than the pass itself.
            return math.ceil(math.prod(about.shape(layer, own, own)) * max(1.0, height * width / own**2))
        return math.prod(about.shape(layer, height, width))
