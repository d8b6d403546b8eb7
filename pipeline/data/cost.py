"""What decoding an image takes in memory, told from its header."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from pipeline.base import budget
from pipeline.data.decode import formats_of, require_proportion, what_pixels_need, work_of_a_pixel
from pipeline.data.jpeg2000 import Jpeg2000

# Bytes a pixel at the highest, measured of `decode` for each kind of image (tests/data/test_cost.py holds that): Pillow
# keeps 4 (grey 1, 16 bits 2), and its conversions and copies come on top.
_COLOUR, _OTHER, _TRANSPARENT, _KEYED, _DEEP = 10, 15, 10, 19, 24
# The same while the codec works, where that is more.
_CODECS = {"WEBP": 28, "JPEG2000": 29, "AVIF": 28, "HEIF": 28, "TIFF": 16, "JPEG": 13, "MPO": 13}
# libjpeg keeps all coefficients of a progressive picture, at full size even where it decodes at less.
_PROGRESSIVE = 8
# Samples of a JPEG 2000's code-blocks, whose own memory is in the above down to this.
_BLOCK = 32 * 32
# But for JPEG 2000 in smaller code-blocks.
MOST_BYTES_A_PIXEL = 29


@dataclass(frozen=True)
class Header:
    """`width`, `height`: of the decoded pixels, before they are turned. `bytes`: at the highest while decoding."""

    width: int
    height: int
    bytes: int


def look(source: bytes | BinaryIO, *, max_pixels: int, reduced_to: int | None = None) -> Header:
    """What an image will take, without decoding it; an open file is left at its beginning.

    Arguments are those of `decode`. A file that can't be decoded, or has too many pixels, takes nothing: the decoder
    refuses it before it makes pixels.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    size_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        head = file.read(12)
        needed, about = what_pixels_need(file, head, max_pixels, header_only=True)
        held_bytes = size_bytes if needed is file else 2 * size_bytes  # a copy of what pixels need
        with Image.open(needed, formats=formats_of(head)) as image:
            width, height = image.size
            if width * height > max_pixels:
                return Header(0, 0, 0)
            require_proportion(width, height, file, work=work_of_a_pixel(image, about))
            at_once = _PROGRESSIVE * width * height if "progressive" in image.info else 0
            if reduced_to is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (reduced_to, reduced_to))
            pixels = image.size[0] * image.size[1]
            most = max(_converted(image), _CODECS.get(str(image.format), 0)) * pixels
            if isinstance(about, Jpeg2000):
                at_once = budget.BLOCK_BYTES * max(0, about.blocks - width * height * about.components // _BLOCK)
            return Header(*image.size, held_bytes + most + at_once)
    except Exception:  # noqa: BLE001  Pillow's parsers raise whatever trips them; the decoder says it
        return Header(0, 0, 0)
    finally:
        file.seek(0)


def _converted(image: Image.Image) -> int:
    if image.mode.startswith("I") or image.mode == "F":
        return _DEEP
    if image.has_transparency_data:
        # Where no band is transparency, one colour is. A BMP's alpha may have to be left out.
        return _KEYED if image.mode in ("L", "RGB") or image.format in ("BMP", "DIB") else _TRANSPARENT
    return _COLOUR if image.mode == "RGB" else _OTHER
