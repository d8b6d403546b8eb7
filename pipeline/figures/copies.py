"""Copies of one picture, in another size or saved again, that a split parts: codes propose them, pixels settle it.

Measured on 400 pictures of 400 px (drawings, and parts of photographs) at 200, 120 and 60 px as JPEG, codes of the
demo's network at 96 px: the copy lies within .035 of the usual distance down to 120 px, and within .33 at 60 px,
where other pictures do too. Shrunk to 16 x 16 px the copies correlate with the picture to .978 or more (one in twenty
below .988); of other pictures' nearest neighbours one in twenty, parts of one photograph that overlap apart, to .95
or more.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.base import csv_files
from pipeline.codes.reader import Codes
from pipeline.config import LayerSpec
from pipeline.data import listed
from pipeline.data.decode import DecodeError, decode
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.answers import Copies, Copy
from pipeline.search.cosine import Cosine

log = logging.getLogger(__name__)

PAIRS, SIDE = 12, 96  # shown, and px of their thumbnails
MOST_IMAGES = 50_000  # searched, the first by id
MOST_PAIRS = 5000  # whose pixels are compared, the nearest first
_PROPOSED = 0.35  # of the median distance of two images
_SURE = 0.03  # the same, where a file can't be read any more
_NEIGHBOURS = 5
_DIM = 256  # of projected codes: distances keep to about a tenth
_BLOCK_BYTES = 64 << 20

_SIDE = 16
_ALIKE = 0.978  # correlation
_FLAT = 1.0  # spread, and difference, of grey levels below which a picture is one colour

Floats = NDArray[np.floating]


class Parted(NamedTuple):
    """Two rows of the manifest, the first repeat (from 0) whose split parts them, and how many of the repeats do."""

    first: int
    second: int
    repeat: int
    parted: int


def compute(inputs: Inputs) -> Computed | None:
    found = find(inputs)
    if not found:
        return None
    manifest, album = inputs.manifest, inputs.album
    log.warning("%d pairs of pictures that may be copies are parted by a split: the page lists them", len(found))
    table = []
    for pair in found:
        rows = (pair.first, pair.second)
        table.append([*map(album.name, rows), *_sizes(inputs, pair), *_sides(inputs, pair), pair.parted])
    shown = tuple(
        Copy(
            (album.picture(pair.first, SIDE), album.picture(pair.second, SIDE)),
            _sizes(inputs, pair),
            _sides(inputs, pair),
            pair.parted,
        )
        for pair in found[:PAIRS]
    )
    cut = MOST_IMAGES if len(manifest) > MOST_IMAGES else 0
    header = ["path", "copy", "size", "copy_size", "split", "copy_split", "splits_parted"]
    return Computed(
        Copies(len(found), shown, MOST_PAIRS, cut, manifest.repeats),
        {"copies_across_splits": len(found)},
        {"copies.csv": csv_files.table(header, table)},
    )


def _sizes(inputs: Inputs, pair: Parted) -> tuple[str, str]:
    widths, heights = inputs.manifest.widths, inputs.manifest.heights
    first, second = (f"{widths[row]} x {heights[row]}" for row in (pair.first, pair.second))
    return first, second


def _sides(inputs: Inputs, pair: Parted) -> tuple[str, str]:
    of = inputs.manifest.splits[pair.repeat]
    return str(of[pair.first]), str(of[pair.second])


def find(inputs: Inputs) -> list[Parted]:
    """Copies on two sides of a split, the nearest first; at most MOST_PAIRS. Without codes none is found."""
    if not inputs.codes:
        return []
    manifest, codes = inputs.manifest, inputs.codes[_spec(inputs)]
    pairs, distances = _proposed(codes)
    rows = np.searchsorted(manifest.ids, codes.ids)[pairs]  # (p, 2) of the manifest
    parted = manifest.splits[:, rows[:, 0]] != manifest.splits[:, rows[:, 1]]  # (repeats, p)
    near = np.flatnonzero(parted.any(axis=0))[:MOST_PAIRS]
    looks: dict[int, tuple[Floats, Floats] | None] = {}
    found = []
    for i in near:
        first, second = sorted(map(int, rows[i]))
        for row in (first, second):
            if row not in looks:
                looks[row] = _look(inputs, row)
        one, other = looks[first], looks[second]
        same = distances[i] <= _SURE if one is None or other is None else any(map(_alike, one, other))
        if same:
            found.append(Parted(first, second, int(parted[:, i].argmax()), int(parted[:, i].sum())))
    return found


def _spec(inputs: Inputs) -> str:
    """The deepest layer's codes, of several the largest, in which places are kept."""
    return max(inputs.specs, key=lambda s: (inputs.depth(LayerSpec.parse(s)), inputs.codes[s].dim))


def _proposed(codes: Codes) -> tuple[NDArray[np.int64], Floats]:
    """(p, 2) rows of the codes and (p,) distances over the median of two images, rising."""
    unit = _projected(codes)
    n = len(unit)
    none = np.empty((0, 2), dtype=np.int64), np.empty(0)
    if n < 2:
        return none
    random = np.random.default_rng(0).integers(0, n, (2, 10_000))
    random = random[:, random[0] != random[1]]
    usual = float(np.median(1 - (unit[random[0]] * unit[random[1]]).sum(axis=1)))
    if usual <= 0:
        return none
    names = np.char.zfill(np.arange(n).astype(str), 9)
    distances, near = Cosine(unit, names).search(unit, min(_NEIGHBOURS + 1, n))
    first = np.repeat(np.arange(n), distances.shape[1])
    pairs = np.sort(np.stack([first, near.ravel().astype(np.int64)], axis=1), axis=1)
    share = distances.ravel() / usual
    kept = (pairs[:, 0] != pairs[:, 1]) & (share <= _PROPOSED)
    pairs, at = np.unique(pairs[kept], axis=0, return_index=True)
    share = share[kept][at]
    order = np.argsort(share, kind="stable")
    return pairs[order], share[order]


def _projected(codes: Codes) -> NDArray[np.float32]:
    """(n, up to _DIM) of unit length, all 0 for a code that is."""
    signs = np.random.default_rng(0).standard_normal((codes.dim, _DIM)).astype(np.float32)
    parts = []
    for start in range(0, min(len(codes), MOST_IMAGES), rows := max(1, _BLOCK_BYTES // (4 * codes.dim))):
        block = codes.rows(slice(start, min(start + rows, MOST_IMAGES))).astype(np.float32)
        parts.append(block @ signs if codes.dim > _DIM else block)
    found: NDArray[np.float32] = np.concatenate(parts) if parts else np.empty((0, min(codes.dim, _DIM)), np.float32)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found


def _look(inputs: Inputs, row: int) -> tuple[Floats, Floats] | None:
    """The whole picture and its middle square, which is what some programs' thumbnails show, each as _SIDE x _SIDE x 3;
    None if the file is gone or another one."""
    manifest = inputs.manifest
    limit = int(manifest.widths[row] * manifest.heights[row])
    try:
        data = listed.read(manifest.file(row), str(manifest.sha256[row]))
        pixels = decode(data, background=inputs.album.background, max_pixels=limit, reduced_to=4 * _SIDE)
    except (listed.ListedError, DecodeError):
        return None
    image = Image.fromarray(pixels)
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    boxes = ((0, 0, width, height), (left, top, left + side, top + side))
    whole, middle = (
        np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX, box=box), dtype=np.float64) for box in boxes
    )
    return whole, middle


def _alike(one: Floats, other: Floats) -> bool:
    if min(one.std(), other.std()) < _FLAT:
        return bool(np.abs(one - other).max() < _FLAT)
    return bool(np.corrcoef(one.ravel(), other.ravel())[0, 1] >= _ALIKE)
