"""Pictures for clients: made again from pixels, so that no metadata of a file gets out, and kept in bounded memory."""

from __future__ import annotations

import io
import threading
import warnings
from collections import OrderedDict
from typing import Literal

from PIL import Image

from pipeline.collection import Collection
from pipeline.data import cost, listed
from pipeline.data.colours import Pixels
from pipeline.data.decode import DecodeError, decode
from pipeline.data.room import NoRoomError, Room
from pipeline.web.problems import Problem

Size = Literal["tile", "large"]
SIDES: dict[Size, int] = {"tile": 256, "large": 1024}
MEDIA_TYPE = "image/jpeg"
# Raised whenever the same image could give other bytes: part of the ETag.
_VERSION = 2


def forbid_bombs() -> None:
    """What Pillow would only warn of is an error in this process."""
    warnings.simplefilter("error", Image.DecompressionBombWarning)


class Pictures:
    """JPEGs by content and size, the least recently used dropped beyond `most_bytes`. For several threads."""

    def __init__(self, most_bytes: int, room: Room) -> None:
        """`room`: the memory that images may take while a picture is made of them."""
        self._room = room
        self._most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[str, Size], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, collection: Collection, row: int, size: Size) -> bytes:
        """A picture of an image of the collection. Raises Problem (404) if its file isn't what was indexed any more."""
        key = collection.digest(row), size
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        max_pixels, reduced_to = collection.made_by["dataset"]["max_pixels"], 2 * SIDES[size]
        try:
            data = listed.read(collection.file(row), collection.digest(row))
            with self._room.hold(cost.look(data, max_pixels=max_pixels, reduced_to=reduced_to).bytes):
                pixels = decode(data, max_pixels=max_pixels, reduced_to=reduced_to, known_whole=True)
                made = render(pixels, size)
        except (listed.ListedError, DecodeError, NoRoomError):
            # One answer whatever the reason, which would tell guests what files there are; `cnncodes index verify` says
            # it to the owner.
            raise Problem(404, "this image has no picture") from None
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self.bytes += len(made)
            while self.bytes > self._most_bytes:
                self.bytes -= len(self._kept.popitem(last=False)[1])
        return made


def render(pixels: Pixels, size: Size) -> bytes:
    """(H, W, 3) -> a JPEG that fits a square of SIDES[size], its proportions kept; none is enlarged."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDES[size], SIDES[size]), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88, subsampling=0)
    return out.getvalue()


def etag(digest: str, size: Size) -> str:
    """What a picture depends on."""
    return f'"{digest[:32]}-{SIDES[size]}-{_VERSION}"'


def decode_upload(data: bytes, *, max_pixels: int, reduced_to: int | None, background: tuple[int, int, int]) -> Pixels:
    """(H, W, 3) of an uploaded image, as `decode`. Raises Problem: 415 for what is not an image of a known format, 413
    for too many pixels, 422 for a broken one.
    """
    try:
        return decode(data, max_pixels=max_pixels, reduced_to=reduced_to, background=background, of_a_guest=True)
    except DecodeError as e:
        reason = str(e)
        if "pixels are more than" in reason or "bomb" in reason:
            raise Problem(413, f"the image is too large: {max_pixels / 1e6:.0f} megapixels are allowed") from e
        if "bit-planes" in reason:
            raise Problem(413, f"the image is too much work: {reason}") from e
        if reason.startswith(("not an image", "empty file", "HEIC", "RAW")):
            raise Problem(415, f"the upload can't be used: {reason}") from e
        raise Problem(422, f"the image can't be read: {reason}") from e
