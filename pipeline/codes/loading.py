"""From files to batches of uint8 views: threads read, hash, decode and resize ahead of the network, within bounds."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codes import views
from pipeline.codes.settings import Settings
from pipeline.data.decode import DecodeError, decode

if TYPE_CHECKING:
    import torch

# Decoding threads beyond this wait for one another's Python.
_MAX_THREADS = 16


@dataclass(frozen=True)
class Source:
    """One image: the files that hold it (equal files are one image), or its bytes.

    `digest` is the expected sha256 of the file, None where the image is new and nothing is expected.
    """

    files: tuple[Path | bytes, ...]
    digest: str | None
    max_pixels: int


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


def load_views(source: Source, settings: Settings) -> list[views.Pixels]:
    """The views of one image. Raises ImageError if no file of it can be read, or all of them changed."""
    reasons = []
    for file in source.files:
        try:
            data = file if isinstance(file, bytes) else file.read_bytes()
            if source.digest is not None and hashlib.sha256(data).hexdigest() != source.digest:
                raise ImageError("the file changed since the dataset was listed")
            image = decode(
                data,
                background=settings.background,
                max_pixels=source.max_pixels,
                reduced_to=max(settings.scales) if settings.reduced_decode else None,
                known_whole=source.digest is not None,
            )
            return views.make(image, view=settings.view, crop=settings.crop, scales=settings.scales, flip=settings.flip)
        except (OSError, DecodeError, ImageError) as e:
            reasons.append(str(e))
    raise ImageError(reasons[0])


def batches(
    sources: Sequence[Source], settings: Settings, *, pinned: bool = False, threads: int | None = None
) -> Iterator[Batch]:
    """Batches of `settings.images_per_batch` images in the order given, the last one padded.

    `pinned` puts the arrays in memory that a GPU copies from without waiting. Images in flight are bounded: two
    batches, or two images a thread, whichever is more.
    """
    per_batch = settings.images_per_batch
    workers = threads or min(_MAX_THREADS, _processors())
    ahead = max(2, -(-2 * workers // per_batch))
    waiting: collections.deque[tuple[Batch, list[Future[str | None]]]] = collections.deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for start in range(0, len(sources), per_batch):
                batch = Batch(sources[start : start + per_batch])
                if settings.view != "whole":
                    batch.images = [_empty(settings, pinned=pinned)]
                jobs = [pool.submit(_fill, batch, i, settings) for i in range(len(batch.sources))]
                waiting.append((batch, jobs))
                if len(waiting) > ahead:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _fill(batch: Batch, position: int, settings: Settings) -> str | None:
    """Loads one image into its place in the batch; returns why not, if it failed."""
    try:
        made = load_views(batch.sources[position], settings)
    except ImageError as e:
        return str(e)
    mirrored = 2 if settings.flip else 1
    if settings.view == "whole":
        # (mirrored, H, W, 3) a scale -> (1, 1, mirrored, H, W, 3)
        batch.images = [np.stack(made[i : i + mirrored])[None, None] for i in range(0, len(made), mirrored)]
    else:
        for i, view in enumerate(made):
            batch.images[0][i // mirrored, position, i % mirrored] = view
    return None


def _finished(batch: Batch, jobs: list[Future[str | None]]) -> Batch:
    for position, job in enumerate(jobs):
        reason = job.result()
        if reason is not None:
            batch.failures[position] = reason
    return batch


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
