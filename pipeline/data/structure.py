"""Whether a file ends where its format says, told without its pixels.

It finds what downloads and copies leave that never ended. What is damaged in between shows when the pixels are decoded.
A file of which this can't be told is decoded at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL.ImageFile import ImageFile

from pipeline.data.jpeg import END, Jpeg
from pipeline.data.jpeg2000 import Jpeg2000
from pipeline.data.png import Png

_GIF_TRAILER = b";"
_TIFF_COMPRESSION, _TIFF_ORIENTATION = 0x0103, 0x0112
_TIFF_PLACES = ((0x0111, 0x0117), (0x0144, 0x0145))  # where strips, or tiles, begin, and how long they are
_TIFF_READ = {1, 5, 8, 32773, 32946}  # compressions that Pillow always reads: none, LZW, Deflate, PackBits


def is_whole(file: BinaryIO, image: ImageFile, about: Png | Jpeg | Jpeg2000 | None) -> bool:
    """Whether the file of an opened image ends where it should. The image isn't loaded; the file's place is moved."""
    if isinstance(about, Png):
        return about.ended and about.checked and bool(about.data)
    if isinstance(about, Jpeg):
        return about.ended and not about.missing and about.scans > 0
    size_bytes = file.seek(0, os.SEEK_END)
    if image.format == "TIFF":
        return _holds_strips(image, size_bytes)
    ends = _ENDS.get(str(image.format))
    return ends is not None and ends(file, size_bytes)


def is_turned_late(image: ImageFile, about: Png | Jpeg | Jpeg2000 | None) -> bool:
    """Whether how a picture is turned shows only once it is loaded."""
    if isinstance(about, Png):
        return about.turned_late
    tags: Any = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tags.get(_TIFF_ORIENTATION, 1) != 1


def _at(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _end(file: BinaryIO, count: int) -> bytes:
    file.seek(-count, os.SEEK_END)
    return file.read(count)


def _ends_with_a_box(file: BinaryIO, size_bytes: int) -> bool:
    """Whether the boxes of an ISO base media file fill it, one of media data among them."""
    at, media = 0, False
    while at + 8 <= size_bytes:
        head = _at(file, at, 16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: up to the end, wherever that is
            return False
        media |= head[4:8] == b"mdat"
        at += length
    return media and at == size_bytes


def _holds_strips(image: ImageFile, size_bytes: int) -> bool:
    tags: Any = getattr(image, "tag_v2", {})
    for starts, lengths in _TIFF_PLACES:
        if starts in tags and lengths in tags:
            places = list(zip(tags[starts], tags[lengths], strict=False))
            paired = len(tags[starts]) == len(tags[lengths]) > 0
            inside = all(start + length <= size_bytes for start, length in places)
            return paired and inside and tags.get(_TIFF_COMPRESSION, 1) in _TIFF_READ
    return False


# Of other formats, such as PPM, it is not told.
_ENDS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "GIF": lambda file, _: _end(file, 1) == _GIF_TRAILER,
    "WEBP": lambda file, size_bytes: int.from_bytes(_at(file, 4, 4), "little") + 8 <= size_bytes,
    "BMP": lambda file, size_bytes: int.from_bytes(_at(file, 2, 4), "little") == size_bytes,
    "JPEG2000": lambda file, _: _end(file, 2) == END,
    "AVIF": _ends_with_a_box,
    "HEIF": _ends_with_a_box,
}
