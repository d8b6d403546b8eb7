"""The one image decoder: whatever Pillow reads becomes 8-bit RGB, or a DecodeError that says why not.

What is shown is what a viewer shows: the first frame, turned as EXIF says, over a background where it is transparent.
Embedded colour profiles are ignored: values are taken as sRGB, as the networks' training images were.
"""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]

# Raise it whenever a pixel of any image could come out different: codes are keyed by it.
VERSION = 1

# Formats that state their size up front and run no foreign program. Others (EPS, PDF, ICO, ...) are refused.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_ORIENTATION_TAG = 0x0112
_TIFF_BITS_TAG = 0x0102
_TIFF_PHOTOMETRIC_TAG = 0x0106


class DecodeError(Exception):
    """A file that is not a readable image; `str()` is the reason in words, without the path."""


def decode(
    source: str | Path | bytes | BinaryIO,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int,
    reduced_to: int | None = None,
) -> Pixels:
    """An image file, its bytes or an open file -> (H, W, 3) uint8 RGB, C-contiguous.

    `background` is the RGB, 0..255, under transparent pixels. `reduced_to` lets libjpeg decode a JPEG at 1/2, 1/4 or
    1/8, the least that keeps both sides at `reduced_to` pixels or more; other formats come whole. 16-bit grey is scaled
    by 255/65535, not clipped. Raises DecodeError on any file that can't be shown whole: empty, truncated, not an image,
    of a format or mode that is not read here, or of more than `max_pixels` pixels (Pillow's own limit, twice
    `Image.MAX_IMAGE_PIXELS`, holds above that).
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), background, max_pixels, reduced_to)
    if not isinstance(source, str | Path):
        return _decode(source, background, max_pixels, reduced_to)
    try:
        with Path(source).open("rb") as file:
            return _decode(file, background, max_pixels, reduced_to)
    except OSError as e:
        raise DecodeError(f"can't be read: {e.strerror or e}") from e


def _decode(file: BinaryIO, background: tuple[int, int, int], max_pixels: int, reduced_to: int | None) -> Pixels:
    head = file.read(12)
    file.seek(0)
    if not head:
        raise DecodeError("empty file")
    formats = formats_of(head)
    try:
        with Image.open(file, formats=formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DecodeError(f"{width} x {height} pixels are more than max_pixels ({max_pixels})")
            if reduced_to is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (reduced_to, reduced_to))
            image.load()
            # After load, since PNG may hold its EXIF behind the pixels and TIFF is turned by load itself.
            turn = _orientation(image)
            pixels = _to_rgb(image, background)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError("not an image of a format that is read here, or cut off in its first bytes") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise DecodeError(f"decompression bomb: {e}") from e
    except Exception as e:  # Pillow's parsers raise whatever a broken file makes them trip over; one row, not the run
        raise DecodeError(f"broken: {' '.join(str(e).split()) or type(e).__name__}") from e
    return np.ascontiguousarray(_turn(pixels, turn))


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [f for f in FORMATS if f in Image.OPEN]


def formats_of(head: bytes) -> list[str]:
    """The formats that a file with these first 12 bytes may have. Raises DecodeError for HEIC without its extra."""
    return _formats_with_heif() if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS else _formats()


@functools.cache
def _formats_with_heif() -> list[str]:
    try:
        import pillow_heif
    except ImportError:
        raise DecodeError("HEIC is read by an extra: pip install 'cnn-codes[heic]'") from None
    pillow_heif.register_heif_opener()
    return [*_formats(), "HEIF"]


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Pixels:
    """A loaded image of any mode -> (H, W, 3) uint8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _grey16_to_rgb(image, background)
    if image.mode in ("I", "F"):
        raise DecodeError(f"{image.format} with 32-bit values of unknown range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", image.size, background)
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(flat)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _grey16_to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Pixels:
    """Grey of up to 16 bits, which Pillow's own conversion would clip at 255."""
    grey = np.asarray(image).astype(np.int64)  # (H, W), 0..65535
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


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 (upright) where there is none or the EXIF can't be read, as viewers do."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return 1
    return value if value in _TURNS else 1


# EXIF orientation -> (transpose rows and columns first, then flip rows, flip columns)
_TURNS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    transpose, flip_rows, flip_columns = _TURNS[orientation]
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
