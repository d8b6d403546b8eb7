"""Images and labels in HDF5 files, each in one of two layouts: one file for all, or those of train and those of test.

Plain: `images` (n, H, W), (n, H, W, 1 | 3) or (n, 1 | 3, H, W); where both fit, the last axis is the channels. Beside
it, each optional and of length n: `labels` (whole numbers or text), `group` and `split` (text). The names of numbered
classes may stand in `labels`' attribute `classes`.

neon's HDF5Iterator: `input` (n, C*H*W) with the attribute `lshape` = (C, H, W); its `mean` is what a network subtracts,
is not applied to the stored values, and is not wanted here. `output` (n,) or (n, 1) holds class numbers, or (n, nclass)
one-hot rows, with the attribute `nclass`.

Values are uint8, or other numbers that are whole and from 0 to 255; the order of channels is RGB. A file `classes.txt`
beside a file names its numbered classes, one a line, where the file itself does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.config import DatasetParams
from pipeline.data.sources.base import Listing, Record, class_names, numbered, save_all
from pipeline.data.sources.hdf5_file import Columns, columns, pictures, require_classes

CLASSES = "classes.txt"
_MOST_BYTES = 16 << 20  # of classes.txt


def read(params: DatasetParams, images: Path) -> Listing:
    """Unpacks `params.train` and `params.test`, or else the file `params.root`, into PNGs numbered in the files' order.

    With files of test, the others are train, but for rows of theirs that say val. Raises UserError if one is missing,
    of no layout above or contradicts its place, or if their classes don't fit together.
    """
    files = [(str(file), "train" if params.test else "") for file in params.train or [params.root]]
    files += [(str(file), "test") for file in params.test]
    _require_different([file for file, _ in files])
    found = [columns(file) for file, _ in files]
    classes = _classes([file for file, _ in files], found)
    records: list[Record] = []
    counts = {"": 0, "train": 0, "test": 0}
    for (file, side), of in zip(files, found, strict=True):
        folder = f"{side}/" if side else ""
        labels = of.labels if isinstance(of.labels, list) else [classes[c] for c in of.labels.tolist()]
        splits = _splits(file, side, of.splits)
        for label, group, split in zip(labels, of.groups, splits, strict=True):
            records.append(Record(numbered(folder, counts[side]), label, group, split))
            counts[side] += 1
    need = sum(len(of) * math.prod(of.shape) for of in found)
    disk.require_space(images, need, what=f"unpacking {', '.join(file for file, _ in files)}")
    unpacked = chain.from_iterable(pictures(file) for file, _ in files)
    save_all(zip((record.path for record in records), unpacked, strict=True), images)
    return Listing(images, records, classes=tuple(classes))


def _require_different(files: Sequence[str]) -> None:
    seen: set[str] = set()
    for file in files:
        place = str(Path(file).resolve())
        if place in seen:
            raise UserError(f"dataset: {file} is named twice", allowed="each file once, in train or in test")
        seen.add(place)


def _splits(file: str, side: str, own: Sequence[str]) -> Iterator[str]:
    """The split of each row of a file: that of its place among train and test, which its own may refine."""
    allowed = {"train": {"", "train", "val"}, "test": {"", "test"}}.get(side)
    if allowed is not None and (other := sorted(set(own) - allowed)):
        raise UserError(f"{file} is a file of {side} and has rows of {other[0]}", allowed=sorted(allowed - {""}))
    return (split or side for split in own)


def _classes(files: Sequence[str], found: Sequence[Columns]) -> list[str]:
    """The names of numbered classes, by number; [] where classes are texts. Raises UserError if the files differ."""
    numbers = {file: of for file, of in zip(files, found, strict=True) if not isinstance(of.labels, list)}
    texts = [file for file, of in zip(files, found, strict=True) if isinstance(of.labels, list) and any(of.labels)]
    if not numbers:
        return []
    if texts:
        raise UserError(
            f"{next(iter(numbers))} has numbers of classes, {texts[0]} has names", allowed="one of both in all files"
        )
    stated = {file: of.nclass for file, of in numbers.items() if of.nclass}
    if len(set(stated.values())) > 1:
        counts = ", ".join(f"{file} {count}" for file, count in stated.items())
        raise UserError(f"the files state different numbers of classes: {counts}", allowed="the same nclass in all")
    count = max(max(of.nclass, int(np.max(of.labels)) + 1) for of in numbers.values())
    require_classes(count, ", ".join(numbers))
    named = {file: names for file, of in numbers.items() if (names := of.classes or _beside(file))}
    first = next(iter(named.values()), [])
    if other := next((file for file, names in named.items() if names != first), None):
        raise UserError(f"{next(iter(named))} and {other} name their classes differently", allowed="the same names")
    if first and len(first) < count:
        raise UserError(f"{next(iter(named))}: classes go up to {count - 1}, but names {len(first)} classes")
    return class_names(first, len(first) or count)


def _beside(file: str) -> list[str]:
    """The names in `classes.txt` beside a file; [] if there is none."""
    path = Path(file).with_name(CLASSES)
    if not path.is_file():
        return []
    try:
        with path.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} can't be read: {e}", allowed="text in UTF-8, a class a line") from e
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path} is too long", allowed=f"{_MOST_BYTES:,} bytes")
    names = [line.strip() for line in text.rstrip().split("\n")]
    if len(set(names)) != len(names) or "" in names:
        raise UserError(f"{path} has a name twice, or an empty line", allowed="one name a class, one a line")
    return names
