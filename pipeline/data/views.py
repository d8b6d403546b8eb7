"""From a decoded image to the network's inputs: (H, W, 3) uint8 -> views of uint8.

Resampling is Pillow's bilinear filter, whose support grows as an image shrinks (antialiased): the one that
torchvision's weights were evaluated with. An image whose shorter side is below the scale is enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RESAMPLING = "pillow-bilinear"
# What a record of how codes were made calls Pillow's filters.
FILTERS = {
    "pillow-bilinear": Image.Resampling.BILINEAR,
    "pillow-bicubic": Image.Resampling.BICUBIC,
    "pillow-lanczos": Image.Resampling.LANCZOS,
    "pillow-nearest": Image.Resampling.NEAREST,
}

View = Literal["crop", "whole", "squash"]
# How the longer side and the margins of a crop are rounded: halves up and down, or as torchvision's Resize and
# CenterCrop do, which cut the longer side off and halve odd margins to the even number.
Geometry = Literal["rounded", "torchvision"]
Pixels = NDArray[np.uint8]


def make(
    image: Pixels,
    *,
    view: View,
    crop: int | None,
    scales: Sequence[int],
    flip: bool,
    resampling: str = RESAMPLING,
    geometry: Geometry = "rounded",
) -> list[Pixels]:
    """The views of one image in the order scale by scale, each followed by its mirror image where `flip` is set.

    crop: the shorter side becomes the scale, then a central square of `crop` pixels; whole: all of it at that scale;
    squash: a square of `crop` pixels whatever the proportions.
    """
    made = []
    for scale in scales:
        one = _resize(image, view=view, crop=crop, scale=scale, filter_=FILTERS[resampling], geometry=geometry)
        made.append(one)
        if flip:
            made.append(np.ascontiguousarray(one[:, ::-1]))
    return made


def scaled_size(width: int, height: int, scale: int, geometry: Geometry = "rounded") -> tuple[int, int]:
    """(width, height) with the shorter side equal to `scale` and the longer one rounded, halves up, or cut off."""
    if geometry == "torchvision":
        return (scale, int(scale * height / width)) if width <= height else (int(scale * width / height), scale)
    short = min(width, height)
    return (2 * width * scale + short) // (2 * short), (2 * height * scale + short) // (2 * short)


def _resize(
    image: Pixels, *, view: View, crop: int | None, scale: int, filter_: Image.Resampling, geometry: Geometry
) -> Pixels:
    height, width = image.shape[:2]
    box = (0.0, 0.0, float(width), float(height))
    if view == "whole" or crop is None:
        size = scaled_size(width, height, scale, geometry)
    elif view == "squash":
        size = (crop, crop)
    else:
        scaled_width, scaled_height = scaled_size(width, height, scale, geometry)
        left, top = (_margin(side - crop, geometry) for side in (scaled_width, scaled_height))
        if geometry == "torchvision":
            # As torchvision does it: Pillow holds a box in float32, which moves some values by a level.
            whole = Image.fromarray(image).resize((scaled_width, scaled_height), filter_)
            return np.asarray(whole.crop((left, top, left + crop, top + crop)))
        # The crop in the image's own pixels: only what is kept is resampled.
        x, y = width / scaled_width, height / scaled_height
        box = (left * x, top * y, min((left + crop) * x, width), min((top + crop) * y, height))
        size = (crop, crop)
    if size == (width, height) and box == (0.0, 0.0, width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, filter_, box=box))


def _margin(spare: int, geometry: Geometry) -> int:
    """Pixels before a crop, which leaves `spare` on both sides together: half of them. Half of an odd number is rounded
    down, or as torchvision does, to the even neighbour."""
    return round(spare / 2) if geometry == "torchvision" else spare // 2
