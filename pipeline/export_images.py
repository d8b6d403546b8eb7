"""A folder of images as train.h5 and test.h5 in neon's layout, which scripts for neon and `data.sources.hdf5` read.

```python
from pipeline.export_images import export_images
export_images("photos", "set", size=224, mean=True)    # set/train.h5, set/test.h5, set/classes.txt
```
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, hdf5_files, held
from pipeline.base.cache import working_folder
from pipeline.base.errors import UserError
from pipeline.config import MEMORY_MB, CodesParams, DatasetParams
from pipeline.data.build import build
from pipeline.data.manifest import Manifest
from pipeline.data.sources.base import blocks
from pipeline.data.sources.hdf5 import CLASSES
from pipeline.strategies.images import CachedView, Images, cached
from pipeline.strategies.rows_file import RowsFile
from pipeline.workspace import Workspace, images_section, preset

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
TRAIN, TEST = "train.h5", "test.h5"
_BLOCK_BYTES = 4 << 20


class Exported(NamedTuple):
    """The files that were written, the number of images of each of TRAIN and TEST, and the classes by number."""

    files: list[Path]
    images: dict[str, int]
    classes: tuple[str, ...]


def export_images(
    folder: str | Path,
    out: str | Path,
    *,
    size: int,
    mean: bool = False,
    view: Literal["crop", "squash"] = "crop",
    dataset: Mapping[str, Any] | None = None,
    memory_mb: int = MEMORY_MB,
) -> Exported:
    """Writes the new folder `out`, whole or not at all, a block of images in memory at a time.

    `folder`: images, split by the preset's section `dataset` with the changes `dataset`; or a folder with dataset/,
    whose first split it is. Train and val go into TRAIN together, since who reads it cuts val from it; test into TEST.
    Images are `size` pixels a side, the centre (crop) or all of the image (squash), in the order of the HDF5 files they
    come from, else by id. `input` (n, 3*size*size) uint8, RGB, with `lshape`, and with `mean` the mean (3,) of TRAIN's
    values; `output` (n, 1) class numbers with `nclass`; `ids` (n,). Of a set without labels there is no `output`; in
    others, images without one are left out.

    Raises UserError if `out` holds something, or no image is train or none test.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already", allowed="a new folder")
    data = preset(DatasetParams, **{**images_section(folder), **(dataset or {})})
    red, green, blue = preset(CodesParams).background
    with working_folder() as work:
        manifest = _manifest(Path(folder), data, work, memory_mb)
        classes = manifest.numbered or manifest.classes
        images = cached(manifest, CachedView(view, size, (red, green, blue)), work, memory_mb=memory_mb)
        rows = _rows(manifest, images)
        return _write_all(out, manifest, images, rows, classes, mean=mean)


def _manifest(folder: Path, data: DatasetParams, work: Path, memory_mb: int) -> Manifest:
    if (folder / "dataset" / "dataset.json").is_file():
        return Workspace(folder).manifest()
    return build(data, work / "dataset", fleeting=True, memory_mb=memory_mb)


def _rows(manifest: Manifest, images: Images) -> dict[str, Ints]:
    """File -> rows of the manifest, in order."""
    usable = images.at >= 0
    if manifest.classes:
        bare = usable & (manifest.targets < 0)
        if bare.any():
            log.warning("%d of %d images have no label and are left out", bare.sum(), len(manifest))
        usable &= ~bare
    is_test = manifest.splits[0] == "test"
    found = {TRAIN: np.flatnonzero(usable & ~is_test), TEST: np.flatnonzero(usable & is_test)}
    for name, rows in found.items():
        if not len(rows):
            raise UserError(f"no image for {name}", allowed="at least one", see="dataset.test_share")
    return {name: manifest.as_stored(rows) for name, rows in found.items()}


def _write_all(
    out: Path, manifest: Manifest, images: Images, rows: Mapping[str, Ints], classes: Sequence[str], *, mean: bool
) -> Exported:
    need_bytes = sum(map(len, rows.values())) * images.pixels.row_bytes
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        disk.require_space(out.parent, need_bytes, what="the export")
        with held.staging(out) as staging:
            made = staging / "made"  # the folder itself is nobody else's to read
            made.mkdir()
            train_mean = _mean(images.pixels, images.at[rows[TRAIN]]) if mean else None
            for name, own in rows.items():
                _write(made / name, manifest, images, own, nclass=len(classes), mean=train_mean)
            if classes:
                disk.write_text(made / CLASSES, "".join(f"{name}\n" for name in classes))
            made.rename(out)
        disk.sync(out.parent)
    except OSError as e:
        disk.raise_if_disk(e, out)
        raise
    return Exported(sorted(out.iterdir()), {name: len(own) for name, own in rows.items()}, tuple(classes))


def _write(
    path: Path, manifest: Manifest, images: Images, rows: Ints, *, nclass: int, mean: NDArray[np.float32] | None
) -> None:
    pixels, at = images.pixels, images.at[rows]
    _, height, width, channels = pixels.shape
    with hdf5_files.new(path, digest=False) as file:
        data = file.create_dataset("input", shape=(len(rows), pixels.row_bytes), dtype=np.uint8)
        data.attrs["lshape"] = np.array((channels, height, width), dtype=np.int64)
        if mean is not None:
            data.attrs["mean"] = mean
        for block in _blocks(pixels, len(rows)):
            # (B, H, W, C) -> (B, C*H*W)
            data[block] = pixels[at[block]].transpose(0, 3, 1, 2).reshape(-1, pixels.row_bytes)
        file.create_dataset("ids", data=manifest.ids[rows].astype("S"))
        if nclass:
            numbers = manifest.class_numbers[manifest.targets[rows]]
            file.create_dataset("output", data=numbers.astype(np.int32)[:, None]).attrs["nclass"] = nclass


def _mean(pixels: RowsFile, at: Ints) -> NDArray[np.float32]:
    """(3,) of the values of each channel."""
    total = np.zeros(3, dtype=np.int64)
    for block in _blocks(pixels, len(at)):
        total += pixels[at[block]].sum(axis=(0, 1, 2), dtype=np.int64)
    return (total / (len(at) * pixels.row_bytes / 3)).astype(np.float32)


def _blocks(pixels: RowsFile, n: int) -> Sequence[slice]:
    return list(blocks(n, max(1, _BLOCK_BYTES // pixels.row_bytes)))
