"""From files to batches of uint8 views: threads read, hash, decode and resize ahead of the network, within bounds."""

from __future__ import annotations

import collections
import io
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.codes.cost import Cost
from pipeline.codes.settings import Settings
from pipeline.data import cost, views
from pipeline.data.cost import Header
from pipeline.data.decode import DecodeError
from pipeline.data.listed import ChangedError
from pipeline.data.originals import Originals
from pipeline.data.room import NoRoomError, Room

if TYPE_CHECKING:
    import torch

# Decoding threads beyond this wait for one another's Python.
_MAX_THREADS = 16


@dataclass(frozen=True)
class Source:
    """One image: the files that hold it (equal files are one image), or its bytes.

    `digest` is the expected sha256 of the file, None where the image is new and nothing is expected. `open_file` opens
    it to be read, `Path.open` if None. `originals`: what is remembered of files that have a digest.
    """

    files: tuple[Path | bytes, ...]
    digest: str | None
    max_pixels: int
    open_file: Callable[[Path], BinaryIO] | None = None
    originals: Originals = field(default_factory=Originals)

    def open(self, file: Path | bytes) -> BinaryIO:
        if isinstance(file, bytes):
            return io.BytesIO(file)
        return self.open_file(file) if self.open_file else file.open("rb")


@dataclass
class Batch:
    """`images` are the network's inputs: arrays (scales, images, mirrored, H, W, 3) uint8.

    One array for views of one size; one a scale, with a single image, for whole images. `failures`: position in
    `sources` -> reason; the views of a failed image, and those beyond the last image, are zeros.
    """

    sources: Sequence[Source]
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


class ImageError(Exception):
    """An image that has no row, and why, in words."""


def load_views(source: Source, settings: Settings, admit: Callable[[Header], None] | None = None) -> list[views.Pixels]:
    """The views of one image. `admit` is told the header before a file is read whole, and may raise ImageError.

    Raises ImageError if no file of it can be read, or all of them changed.
    """
    reasons = []
    reduced_to = max(settings.scales) if settings.reduced_decode else None
    for file in source.files:
        try:
            with source.open(file) as opened:
                if admit is not None:
                    admit(cost.look(opened, max_pixels=source.max_pixels, reduced_to=reduced_to))
                image = source.originals.decode(
                    file,
                    opened,
                    source.digest,
                    background=settings.background,
                    max_pixels=source.max_pixels,
                    reduced_to=reduced_to,
                )
            return views.make(
                image,
                view=settings.view,
                crop=settings.crop,
                scales=settings.scales,
                flip=settings.flip,
                resampling=settings.resampling,
                geometry=settings.geometry,
            )
        except OSError as e:
            reasons.append(f"can't be read: {e.strerror or e}")
        except (ChangedError, DecodeError, ImageError) as e:
            reasons.append(str(e))
        except MemoryError:
            reasons.append("this machine's memory did not suffice")
    raise ImageError(reasons[0])


def batches(
    sources: Sequence[Source],
    specs: Sequence[Settings],
    *,
    room: Room,
    pinned: bool = False,
    threads: int | None = None,
) -> Generator[Batch]:
    """Batches of `images_per_batch` images in the order given, the last one padded. `specs` share all that views need.

    `pinned` puts the arrays in memory that a GPU copies from without waiting. Images in flight are bounded: two
    batches, or two images a thread, whichever is more, and by `room`, which only one of these may use at a time. A
    batch that was yielded is used up when the next one is asked for. Raises UserError if a batch does not fit the room.
    """
    settings = specs[0]
    per_batch = settings.images_per_batch
    workers = threads or min(_MAX_THREADS, _processors())
    ahead = _ahead(settings, workers)
    always, network = require_batch(specs, room, threads=workers)
    waiting: collections.deque[_Loading] = collections.deque()
    with room.hold(always), ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for start in range(0, len(sources), per_batch):
                batch = Batch(sources[start : start + per_batch])
                if settings.view != "whole":
                    batch.images = [_empty(settings, pinned=pinned)]
                # Places are taken here, in the order in which batches are used: an image that waits for room waits for
                # earlier ones alone.
                entries = [_Entry(room, Cost(specs), always) for _ in batch.sources]
                jobs = [pool.submit(_fill, batch, i, settings, entry) for i, entry in enumerate(entries)]
                waiting.append(_Loading(batch, entries, jobs, whole=settings.view == "whole"))
                if len(waiting) > ahead:
                    yield from waiting.popleft().finished(room, network)
            while waiting:
                yield from waiting.popleft().finished(room, network)
        finally:
            for loading in waiting:
                loading.leave()
            pool.shutdown(wait=False, cancel_futures=True)


def require_batch(specs: Sequence[Settings], room: Room, *, threads: int | None = None) -> tuple[int, int]:
    """Bytes of the views of all batches in flight, and of the network at work on one, whatever the images.

    Raises UserError if they don't fit the room together.
    """
    settings, workers = specs[0], threads or min(_MAX_THREADS, _processors())
    cost = Cost(specs)
    # Those that wait, the one in the network, and the one before, whose rows are still being taken up.
    always, network = (_ahead(settings, workers) + 3) * cost.batch_bytes(), cost.batch_network_bytes()
    try:
        room.require(always + network)
    except NoRoomError as e:
        raise UserError(
            f"a batch of {settings.images_per_batch} images {e}",
            allowed="a larger one (--memory-mb), or a smaller codes.compute.batch_size",
            see="docs/params.md",
        ) from None
    return always, network


def _ahead(settings: Settings, workers: int) -> int:
    """Batches that are loaded while the network works on one."""
    return max(2, -(-2 * workers // settings.images_per_batch))


class _Entry:
    """How one image enters the room: once its header is known."""

    def __init__(self, room: Room, cost: Cost, always: int) -> None:
        self._room, self._cost, self._always = room, cost, always
        self._place = room.place()
        self._entered = False

    def __call__(self, header: Header) -> None:
        """Raises ImageError if it needs more than the room has, or nobody waits for it any more."""
        # Of several files that should be equal the first decides: one that has changed is not decoded.
        if self._entered:
            return
        need_bytes = self._cost.image_bytes(header)
        try:
            self._room.require(need_bytes, beside_bytes=self._always)
        except NoRoomError as e:
            raise ImageError(f"{header.width} x {header.height} pixels: {e}") from None
        if not self._place.enter(need_bytes):
            raise ImageError("stopped")
        self._entered = True

    def leave(self) -> None:
        self._place.leave()


@dataclass
class _Loading:
    """A batch under way."""

    batch: Batch
    entries: list[_Entry]
    jobs: list[Future[str | None]]
    whole: bool

    def finished(self, room: Room, network_bytes: int) -> Iterator[Batch]:
        """The batch, once, with room for the network; both are let go when the next one is asked for."""
        try:
            for position, job in enumerate(self.jobs):
                reason = job.result()
                if reason is not None:
                    self.batch.failures[position] = reason
            # Before the images that wait, of later batches: only the network makes more of them needed.
            with room.hold(network_bytes, first=True):
                yield self.batch
        finally:
            if self.whole:
                self.batch.images = []
            self.leave()

    def leave(self) -> None:
        for entry in self.entries:
            entry.leave()


def _fill(batch: Batch, position: int, settings: Settings, entry: _Entry) -> str | None:
    """Loads one image into its place in the batch; returns why not, if it failed."""
    try:
        made = load_views(batch.sources[position], settings, entry)
        mirrored = 2 if settings.flip else 1
        if settings.view == "whole":
            # (mirrored, H, W, 3) a scale -> (1, 1, mirrored, H, W, 3)
            batch.images = [np.stack(made[i : i + mirrored])[None, None] for i in range(0, len(made), mirrored)]
        else:
            for i, view in enumerate(made):
                batch.images[0][i // mirrored, position, i % mirrored] = view
            entry.leave()
    except ImageError as e:
        entry.leave()
        if settings.view == "whole":
            batch.images = blank(settings)
        return str(e)
    return None


def blank(settings: Settings) -> list[NDArray[np.uint8]]:
    """The views of a whole image that failed, in the form of `Batch.images`: squares of zeros."""
    return [np.zeros((1, 1, 2 if settings.flip else 1, scale, scale, 3), np.uint8) for scale in settings.scales]


def _empty(settings: Settings, *, pinned: bool) -> NDArray[np.uint8]:
    """Zeros (scales, images, mirrored, crop, crop, 3)."""
    side = settings.crop
    assert side is not None
    shape = (len(settings.scales), settings.images_per_batch, 2 if settings.flip else 1, side, side, 3)
    if not pinned:
        return np.zeros(shape, dtype=np.uint8)
    import torch

    buffer: torch.Tensor = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
    array: NDArray[Any] = buffer.numpy()
    return array


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
