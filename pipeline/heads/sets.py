"""Which rows of the codes train, validate and test a head in one repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sets:
    """Rows of the codes, in id order, and their class numbers; `left_out` labelled images have no codes."""

    train: Ints
    val: Ints
    test: Ints
    y_train: Ints
    y_val: Ints
    y_test: Ints
    left_out: int


def sets_of(codes: Codes, manifest: Manifest, repeat: int) -> Sets:
    """Images without codes (they could not be read) or without a label are left out.

    Raises UserError with fewer than two classes, no test image, or a class that has no training image.
    """
    if len(manifest.classes) < 2:
        raise UserError(
            f"all images are of one class, {manifest.classes[0]!r}",
            allowed="two classes or more",
            see="the dataset section of params.yaml",
        )
    at = _positions(codes, manifest)
    targets = manifest.targets
    found: dict[str, tuple[Ints, Ints]] = {}
    for split in ("train", "val", "test"):
        rows = manifest.rows(split, repeat)
        rows = rows[(targets[rows] >= 0) & (at[rows] >= 0)]
        found[split] = at[rows], targets[rows]
    counts = np.bincount(found["train"][1], minlength=len(manifest.classes))
    if not counts.all():
        missing = [manifest.classes[c] for c in np.flatnonzero(counts == 0)]
        raise UserError(
            f"repeat {repeat} has no training image with codes of {len(missing)} of {len(counts)} classes: "
            + ", ".join(missing[:10])
            + (", ..." if len(missing) > 10 else ""),
            allowed="at least one a class",
            see="dataset.val_share and dataset.test_share in params.yaml",
        )
    if not len(found["test"][0]):
        images = sum(len(rows) for rows, _ in found.values())
        raise UserError(
            f"repeat {repeat} has no test image with codes, of {images} images in {len(counts)} classes",
            allowed="at least one: a class of two images or more that share no group and no content",
            see="dataset.test_share in params.yaml",
        )
    (train, y_train), (val, y_val), (test, y_test) = found["train"], found["val"], found["test"]
    return Sets(
        train=train,
        val=val,
        test=test,
        y_train=y_train,
        y_val=y_val,
        y_test=y_test,
        left_out=int(((at < 0) & (targets >= 0)).sum()),
    )


def _positions(codes: Codes, manifest: Manifest) -> Ints:
    """(n,) the row of the codes of each image of the manifest, -1 without. Raises UserError if none has any."""
    if not len(codes):
        raise UserError(f"there are no codes of {codes.spec}", see="failures.csv beside the codes")
    at = np.minimum(np.searchsorted(codes.ids, manifest.ids), len(codes) - 1)
    at = np.where(codes.ids[at] == manifest.ids, at, -1).astype(np.int64)
    if (at < 0).all():
        raise UserError(
            f"no image of the manifest has codes of {codes.spec}", allowed="codes of the same data", see="`dvc repro`"
        )
    return at
