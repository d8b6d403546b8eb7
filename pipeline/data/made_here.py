"""The mark of pictures that this program draws, by which it knows them among photographs."""

from __future__ import annotations

import os
from typing import BinaryIO

from PIL import Image

MARK = "cnncodes montage or plot"

_SOFTWARE_TAG = 0x0131
_TAIL_BYTES = 1024


def exif() -> bytes:
    """EXIF to save a picture with: Pillow's `exif=`, of PNG, JPEG and WebP alike. SVG has MARK in its metadata."""
    made = Image.Exif()
    made[_SOFTWARE_TAG] = MARK
    return made.tobytes()


def is_made_here(file: BinaryIO, head: bytes) -> bool:
    """Whether an open file is such a picture; `head` is how it begins. The file's place is moved."""
    if not head.startswith(b"RIFF"):
        return MARK.encode() in head
    # WebP has its EXIF behind the pixels.
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _TAIL_BYTES))
    return MARK.encode() in file.read()
