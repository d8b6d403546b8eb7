"""From a loaded image of any mode to 8-bit RGB, with what Pillow doesn't tell or gets wrong of how it is stored."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from pipeline.data import png as png_format
from pipeline.data.png import Png

Pixels = NDArray[np.uint8]

# Raise it whenever a pixel of any image could come out different, and say in `layout` which images those are, told
# from their header: what was made of others stays good. 2: transparent colours of PNGs with 2 or 4 bits of grey or 16
# bits of RGB, BMPs with alpha, GIFs smaller than their canvas, uncompressed TIFFs of 16 bits in separate planes.
VERSION = 2

_TIFF_BITS_TAG = 0x0102
_TIFF_PHOTOMETRIC_TAG = 0x0106
_TIFF_PLANAR_TAG = 0x011C
_TIFF_SAMPLE_FORMAT_TAG = 0x0153

_DARK = 1 << 12  # of 16 bits
# Worked on at once, so that what is made on the way stays in the processor's cache.
_BAND_PIXELS = 1 << 17


class ModeError(Exception):
    """Pixels that have no colours here; `str()` says why."""


@dataclass(frozen=True)
class Layout:
    """How an image is stored. `bits` a sample; `covered`: left, top, right, bottom of what the first frame fills;
    `decoder`: the version that the image's pixels are of.
    """

    png: Png | None
    bits: int
    covered: tuple[int, int, int, int]
    decoder: int


def layout(image: ImageFile, png: Png | None) -> Layout:
    """What the header says, and Pillow's reading of it set right: to be called before the image is loaded.

    Raises ModeError on values whose range is unknown.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode != "I" and 2 in tags.get(_TIFF_SAMPLE_FORMAT_TAG, ()):
        raise ModeError("TIFF with signed values of unknown range")
    bits = png.depth if png else max(tags.get(_TIFF_BITS_TAG, (_bits(image),)))
    separate = tags.get(_TIFF_PLANAR_TAG) == 2 and bits == 16 and all(t.codec_name == "raw" for t in image.tile)
    if separate:
        # Pillow takes the planes for 8 bits each.
        suffix = {b"II": ";16L", b"MM": ";16B"}[tags.prefix]
        tiles: list[tuple[Any, Any]] = [(tile, tile.args) for tile in image.tile]
        image.tile = [tile._replace(args=(f"{args[0]}{suffix}", *args[1:])) for tile, args in tiles]
    covered = (0, 0, *image.size)
    if image.format == "GIF" and image.tile:
        covered = image.tile[0].extents or covered
    changed = (
        (png is not None and _is_misread_key(png))
        or _is_bmp_with_alpha(image)
        or covered != (0, 0, *image.size)
        or separate
    )
    return Layout(png, bits, covered, 2 if changed else 1)


def to_rgb(image: Image.Image, background: tuple[int, int, int], layout: Layout) -> Pixels:
    """A loaded image -> (H, W, 3) uint8. Raises ModeError on 32-bit values."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _grey16_to_rgb(image, background)
    require_range(image)
    if layout.png is not None and _is_misread_key(layout.png):
        return _keyed_to_rgb(image, background, layout.png)
    if _is_bmp_with_alpha(image) and image.getchannel("A").getextrema() == (0, 0):
        # Made by programs that know no alpha and left the byte at 0: shown as opaque by all viewers.
        return np.asarray(image.convert("RGB"))
    if not image.has_transparency_data:
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    else:
        rgb = _over(image, background)
    if layout.covered == (0, 0, *image.size):
        return rgb
    left, top, right, bottom = layout.covered
    canvas = np.full_like(rgb, background)
    canvas[top:bottom, left:right] = rgb[top:bottom, left:right]
    return canvas


def require_range(image: Image.Image) -> None:
    """Raises ModeError on 32-bit values, loaded or not: nothing says which of them is white."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ModeError(f"{image.format} with 32-bit values of unknown range")


def is_dark(image: Image.Image, layout: Layout) -> bool:
    """Whether a loaded image of 16 bits uses the lowest 12 alone, as cameras and microscopes of 12 bits leave it: it is
    shown almost black.
    """
    if layout.bits != 16:
        return False
    if len(image.getbands()) == 1:
        return bool(np.asarray(image).max() < _DARK)
    # Pillow keeps the upper 8 bits of colours. Most images are bright in their first rows.
    return all(_brightest(band) < _DARK >> 8 for _, band in _bands(image))


def _over(image: Image.Image, background: tuple[int, int, int]) -> Pixels:
    """(H, W, 3), what of an image with transparent pixels is shown over the background."""
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for rows, band in _bands(image):
        rgba = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
        flat = Image.new("RGB", band.size, background)
        flat.paste(rgba, mask=rgba.getchannel("A"))
        rgb[rows] = np.asarray(flat)
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """An image from top to bottom: some rows, and what is in them."""
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _brightest(image: Image.Image) -> int:
    """The highest value in any band but alpha."""
    extrema: Any = image.getextrema()  # least and most of each band
    return max(int(most) for name, (_, most) in zip(image.getbands(), extrema, strict=True) if name.upper() != "A")


def _is_misread_key(png: Png) -> bool:
    """Whether Pillow compares a PNG's transparent colour with values of another depth."""
    return png.keyed and (
        (png.colour == png_format.GREY and png.depth in (2, 4)) or (png.colour == png_format.RGB and png.depth == 16)
    )


def _is_bmp_with_alpha(image: Image.Image) -> bool:
    return image.format in ("BMP", "DIB") and image.mode == "RGBA"


def _bits(image: ImageFile) -> int:
    """16 where values have more than 12 bits, else 8. Pillow scales by the largest value that a PPM's header allows."""
    if image.format != "PPM":
        return 16 if image.mode.startswith("I;16") else 8
    args = image.tile[0].args
    largest = args[-1] if isinstance(args, tuple) else 255
    return 16 if args == "I;16B" or (isinstance(largest, int) and largest >= _DARK) else 8


def _keyed_to_rgb(image: Image.Image, background: tuple[int, int, int], png: Png) -> Pixels:
    """A PNG of which one colour, given in its own depth, is transparent."""
    key = image.info["transparency"]
    values = np.asarray(image)  # (H, W) or (H, W, 3), the upper 8 bits
    if png.colour == png_format.GREY:
        transparent = values == key * (255 // ((1 << png.depth) - 1))
        values = np.repeat(values[:, :, None], 3, axis=2)
    else:
        wanted = np.array(key)
        transparent = ((values == wanted >> 8) & (_lower_bytes(png) == wanted & 255)).all(axis=2)
    rgb = values.copy()
    rgb[transparent] = background
    return rgb


def _lower_bytes(png: Png) -> Pixels:
    """(H, W, 3), the lower 8 bits of a 16-bit RGB PNG, of which Pillow gives the upper ones."""
    with Image.open(io.BytesIO(png.needed), formats=["PNG"]) as image:
        # What Pillow takes for the upper byte of a value that is stored the other way round.
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
        return np.asarray(image)


def _grey16_to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Pixels:
    """Grey of up to 16 bits, which Pillow's own conversion would clip at 255."""
    grey = np.asarray(image).astype(np.uint32)  # (H, W), 0..65535: times 255 still fits
    tags: Any = getattr(image, "tag_v2", {})
    top = (1 << int(tags.get(_TIFF_BITS_TAG, (16,))[0])) - 1
    if tags.get(_TIFF_PHOTOMETRIC_TAG) == 0:  # white is zero; Pillow inverts 8 bits and fewer, not these
        grey = top - grey
    shown = (grey * 255 + top // 2) // top
    rgb = np.repeat(shown.astype(np.uint8)[:, :, None], 3, axis=2)  # (H, W, 3)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        rgb[grey == transparent] = background
    return rgb
