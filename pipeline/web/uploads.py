"""Images that clients bring: read from a request, looked at once, and kept for a while as codes and a small picture."""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import python_multipart  # noqa: F401  forms need it, and would say so at the first upload only
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request

from pipeline.base import json_files
from pipeline.codes.embedder import ImagesError
from pipeline.collection import Collection, Look
from pipeline.data import cost
from pipeline.data.colours import Pixels
from pipeline.data.room import NoRoomError, Room
from pipeline.web.limits import Limits
from pipeline.web.pictures import SIDES, Size, decode_upload, render
from pipeline.web.problems import Problem, told_as

FIELD = "image"


@dataclass(frozen=True)
class Upload:
    """What is kept of an image: never its bytes, its name or its metadata. `codes_key`: the kind of its codes.

    `id` is drawn by lot: one made of the content would tell who else has the image that somebody searched with it.
    `reduced`: it was decoded at a reduced size.
    """

    id: str
    codes_key: str
    look: Look
    width: int
    height: int
    reduced: bool
    pictures: dict[Size, bytes]
    network_s: float


class Uploads:
    """The last `most` images that were asked for. For several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, upload: Upload) -> None:
        with self._lock:
            self._kept[upload.id] = upload
            self._kept.move_to_end(upload.id)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def get(self, upload_id: str, collection: Collection) -> Upload:
        """Raises Problem (404) if it is no longer kept, or never was, or its codes are not of the collection's kind."""
        with self._lock:
            found = self._kept.get(upload_id)
            if found is None or found.codes_key != codes_key(collection):
                raise Problem(404, "this uploaded image is not kept any more; bring it again")
            self._kept.move_to_end(upload_id)
            return found


def take(data: bytes, collection: Collection, *, limits: Limits, room: Room, hidden: Mapping[str, str]) -> Upload:
    """Looks at an image. Raises Problem if it can't be read or needs too much memory, or the network can't be had."""
    sides: tuple[Size, ...] = ("tile", "large")
    settings = collection.settings
    stated = cost.look(data, max_pixels=limits.pixels)
    large = stated.width * stated.height > limits.whole_pixels
    # Far more than the network's inputs are made of, so that codes hardly differ.
    reduced_to = max(2 * SIDES["large"], 4 * max(settings.scales)) if large else None
    header = cost.look(data, max_pixels=limits.pixels, reduced_to=reduced_to)
    reduced = header.width < stated.width
    if large and header.width * header.height > limits.whole_pixels:
        most = f"{limits.whole_pixels / 1e6:.0f} megapixels are allowed, {limits.pixels / 1e6:.0f} of a JPEG"
        raise Problem(413, f"the image is too large: {most}, which can be decoded at a reduced size")
    try:
        # Let go before the network asks for room of its own.
        with room.hold(header.bytes):
            pixels = decode_upload(
                data, max_pixels=limits.pixels, reduced_to=reduced_to, background=settings.background
            )
            shown = _bmp(pixels)
            pictures = {size: render(pixels, size) for size in sides}
            height, width = pixels.shape[:2]
            del pixels
    except NoRoomError as e:
        raise Problem(413, f"the image is too large: it {e}") from e
    if reduced:  # pixels are turned as EXIF says, the header is not
        turned = (width > height) != (stated.width > stated.height)
        width, height = (stated.height, stated.width) if turned else (stated.width, stated.height)
    started_s = time.perf_counter()
    with told_as(503, hidden):  # the image is sound: it is the network that can't be had
        try:
            look = collection.look(data, shown=shown)
        except ImagesError as e:
            raise Problem(422, f"the image can't be used: {e.reasons[0]}") from e
    network_s = time.perf_counter() - started_s
    return Upload(
        id=f"q{secrets.token_hex(16)}",
        codes_key=codes_key(collection),
        look=look,
        width=width,
        height=height,
        reduced=reduced and look.codes is not None,
        pictures=pictures,
        network_s=network_s if look.codes is not None else 0.0,
    )


def _bmp(pixels: Pixels) -> bytes:
    """A file of these pixels that costs nothing to read: the upload's own would be decoded a second time."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "BMP")
    return out.getvalue()


def codes_key(collection: Collection) -> str:
    """What two collections share whose codes are of one kind."""
    return json_files.fingerprint({key: collection.made_by[key] for key in ("weights", "codes")})


async def read_image(request: Request) -> bytes:
    """The image in a request's body: a form's file named FIELD, or the body itself. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get(FIELD)
            if not isinstance(file, UploadFile):
                raise Problem(400, f"the form has no file named {FIELD!r}")
            return await file.read()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await request.body()
    raise Problem(
        415, f"an upload of type {kind or 'unknown'!r}: send a form with a file named {FIELD!r}, or an image as it is"
    )
