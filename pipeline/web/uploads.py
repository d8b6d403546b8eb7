"""Images that clients bring: read from a request, looked at once, and kept for a while as codes and a small picture."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import python_multipart  # noqa: F401  forms need it, and would say so at the first upload only
from starlette.datastructures import UploadFile
from starlette.requests import Request

from pipeline.codes.embedding import ImagesError
from pipeline.collection import Collection, Look
from pipeline.data import cost
from pipeline.data.room import NoRoomError, Room
from pipeline.schema import fingerprint
from pipeline.web.pictures import Size, decode_upload, render
from pipeline.web.problems import Problem, told_as

FIELD = "image"


@dataclass(frozen=True)
class Upload:
    """What is kept of an image: never its bytes, its name or its metadata. `codes_key`: the kind of its codes."""

    id: str
    codes_key: str
    look: Look
    width: int
    height: int
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


def take(data: bytes, collection: Collection, *, max_pixels: int, room: Room, hidden: Mapping[str, str]) -> Upload:
    """Looks at an image. Raises Problem if it can't be read or needs too much memory, or the network can't be had."""
    sides: tuple[Size, ...] = ("tile", "large")
    try:
        # Let go before the network asks for room of its own.
        with room.hold(cost.look(data, max_pixels=max_pixels).bytes):
            pixels = decode_upload(data, max_pixels=max_pixels)
            height, width = pixels.shape[:2]
            pictures = {size: render(pixels, size) for size in sides}
            del pixels
    except NoRoomError as e:
        raise Problem(413, f"the image is too large: it {e}") from e
    started_s = time.perf_counter()
    with told_as(503, hidden):  # the image is sound: it is the network that can't be had
        try:
            look = collection.look(data)
        except ImagesError as e:
            raise Problem(422, f"the image can't be used: {e.reasons[0]}") from e
    network_s = time.perf_counter() - started_s
    return Upload(
        id=f"q{look.sha256[:24]}",
        codes_key=codes_key(collection),
        look=look,
        width=width,
        height=height,
        pictures=pictures,
        network_s=network_s if look.codes is not None else 0.0,
    )


def codes_key(collection: Collection) -> str:
    """What two collections share whose codes are of one kind."""
    return fingerprint({key: collection.made_by[key] for key in ("weights", "codes")})


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
