"""Which images train, validate and test a strategy in one repeat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.seeds import seed_of
from pipeline.data.manifest import Manifest
from pipeline.heads.sets import Sets
from pipeline.strategies.images import Images

Ints = NDArray[np.int64]


def sets_of(manifest: Manifest, images: Images, repeat: int, *, max_train: int, seed: int) -> Sets:
    """Rows of the manifest that are labelled and could be read.

    With `max_train` above 0 only so many train, in shares of the classes as they are, each class with one at least.
    Raises UserError with fewer than two classes, no test image, or a class that has no training image.
    """
    k = len(manifest.classes)
    if k < 2:
        found = f"all images are of one class, {manifest.classes[0]!r}" if k else "no image has a label"
        raise UserError(found, allowed="two classes or more")
    targets, usable = manifest.targets, (manifest.targets >= 0) & (images.at >= 0)
    train, val, test = (
        rows[usable[rows]] for rows in (manifest.rows(split, repeat) for split in ("train", "val", "test"))
    )
    vanished = [manifest.classes[c] for c in np.flatnonzero(np.bincount(targets[train], minlength=k) == 0)]
    if vanished:
        raise UserError(
            f"repeat {repeat} has no training image of {len(vanished)} of {k} classes: {', '.join(vanished[:10])}",
            allowed="at least one a class",
            see="dataset.val_share and dataset.test_share in params.yaml",
        )
    if not len(test):
        raise UserError(f"repeat {repeat} has no test image", allowed="at least one", see="dataset.test_share")
    if max_train:
        if max_train < k:
            raise UserError(
                f"finetune.loop.max_train {max_train} is below the number of classes", allowed=f"0, or {k} up"
            )
        train = _stratified(train, targets[train], max_train, seed_of(seed, "max_train", repeat))
    left_out = int(((images.at < 0) & (targets >= 0)).sum())
    return Sets(train, val, test, targets[train], targets[val], targets[test], left_out)


def _stratified(rows: Ints, targets: Ints, count: int, seed: int) -> Ints:
    """The `count` rows that come first when each class's shuffled rows are spread evenly over the whole order."""
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    place = np.empty(len(rows))
    for c in np.unique(targets):
        own = shuffled[targets[shuffled] == c]
        place[own] = np.arange(len(own)) / len(own)
    return np.sort(rows[np.argsort(place, kind="stable")[:count]])
