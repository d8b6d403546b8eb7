"""What every source gives: where the images lie, and one record an image."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.base.errors import UserError
from pipeline.config import DatasetParams
from pipeline.data.links import Links
from pipeline.data.manifest import Failure

# Names that a folder, a column or a dataset may use -> the three splits.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_LOSSLESS_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


class Record(NamedTuple):
    """One image. `path` is relative to the listing's root, with `/`; "" stands for none in the others."""

    path: str
    label: str = ""
    group: str = ""
    split: str = ""


class Listing(NamedTuple):
    """All images of a source, and what lies among them and is left out, in any order.

    `classes`: where the source numbers its classes, their names by number, of those without images too. `links`: those
    that may be followed when the images are read, all if None.
    """

    root: Path
    records: list[Record]
    left_out: Sequence[Failure] = ()
    classes: tuple[str, ...] = ()
    links: Links | None = None


# (params, an empty folder for images that the source must draw or unpack) -> Listing. Raises UserError.
Reader = Callable[[DatasetParams, Path], Listing]


# An image to keep: a picture, its pixels (H, W) or (H, W, 3), or a file to copy.
Picture = Image.Image | NDArray[np.uint8] | Path


def save_all(images: Iterable[tuple[str, Picture]], folder: Path) -> None:
    """Saves (relative path, image) pairs without loss, on all cores; the images are held a few at a time.

    Files are copied, all else becomes PNG; modes that PNG lacks become RGB.
    """
    workers = os.cpu_count() or 1
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for name, image in images:
            waiting.append(pool.submit(_save, image, folder / name))
            if len(waiting) > 4 * workers:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def _save(image: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        shutil.copyfile(image, path)
        return
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if picture.mode not in _LOSSLESS_MODES:
        picture = picture.convert("RGB")
    picture.save(path, "PNG", compress_level=1)


def numbered(prefix: str, index: int) -> str:
    """A PNG's relative path by its number, a thousand a folder."""
    return f"{prefix}{index // 1000:04d}/{index:08d}.png"


def class_names(names: Iterable[object], count: int) -> list[str]:
    """Text of `count` classes; their numbers, padded so that text sorts as numbers do, where there are no names.

    Raises UserError if two classes share a name.
    """
    texts = [str(n) for n in names] or [f"{i:0{len(str(count - 1))}d}" for i in range(count)]
    if len(set(texts)) != len(texts) or any(not t.strip() for t in texts):
        raise UserError("two classes share a name, or one has none", allowed="one name a class")
    return texts


def known_split(text: str, *, where: str) -> str:
    """train, val or test for one of their usual names. Raises UserError naming `where` otherwise."""
    split = SPLIT_NAMES.get(text.strip().casefold())
    if split is None:
        raise UserError(f"{where} has the split {text!r}", allowed=SPLIT_NAMES)
    return split


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices that cover range(n)."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
