"""The images that advice may look at, and the folds that they are cut into. The test split is never among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.codes.reader import Codes
from pipeline.data import splits
from pipeline.data.manifest import Manifest
from pipeline.heads.base import Targets
from pipeline.heads.curve import nested_order

Ints = NDArray[np.int64]

# Of few images it is much of the noise which are held out together: they are dealt into folds again, until about so
# many answers are counted, or so often (repeated cross-validation).
_ANSWERS, _MOST_DEALS = 1000, 10


@dataclass(frozen=True)
class Seen:
    """Labelled images of train and val of the first split that have codes of every spec.

    `ids` (n,) in an order of which every prefix is stratified; `y` (n,) their class numbers, 0 to k - 1, among the
    classes that are there; `folds` (deals, n) the fold in which a deal holds each row out, -1 if it only trains;
    `per_class` (k,) images, of which there may be more than n, since no more than a bound are drawn.
    """

    ids: NDArray[np.str_]
    y: Ints
    folds: Ints
    per_class: Ints

    def __len__(self) -> int:
        return len(self.y)

    @property
    def k(self) -> int:
        return len(self.per_class)

    @property
    def images(self) -> int:
        """Training and validation images before the draw."""
        return int(self.per_class.sum())

    def first(self, n: int) -> Seen:
        """The first n rows, their folds made good again."""
        folds = np.stack([_with_every_class(self.y[:n], fold[:n]) for fold in self.folds])
        return Seen(self.ids[:n], self.y[:n], folds, self.per_class)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(n,) rows that some deal holds out."""
        return np.asarray((self.folds >= 0).any(axis=0))

    def targets(self, *, balanced: bool) -> Targets:
        return Targets(self.y, self.k, balanced)


def seen_of(manifest: Manifest, codes: Mapping[str, Codes], *, most: int, folds: int, seed: int) -> Seen:
    """At most `most` images, drawn with their classes' shares.

    What shares a group or its bytes is held out together. A class's rows that all fall into one fold always train.
    Raises UserError with fewer than two classes, or too few images to hold any out.
    """
    rows = np.flatnonzero((manifest.splits[0] != "test") & (manifest.targets >= 0))
    for one in codes.values():
        rows = rows[np.isin(manifest.ids[rows], one.ids)]
    found, y = np.unique(manifest.targets[rows], return_inverse=True)
    if len(found) < 2:
        raise UserError(
            f"there are training images with codes of {len(found)} class(es)",
            allowed="two classes or more",
            see="the dataset section of params.yaml",
        )
    per_class = np.bincount(y)
    order = nested_order(y, np.random.default_rng(seed))[: max(most, len(found))]
    rows, y = rows[order], y[order]
    units = splits.unite(manifest.groups[rows].tolist(), manifest.sha256[rows].tolist())
    strata = splits.stratify(manifest.ids[rows].tolist(), manifest.labels[rows].tolist(), units)
    deals = min(max(-(-_ANSWERS // len(y)), 1), _MOST_DEALS)
    dealt = np.stack([_deal(strata, len(y), folds=folds, seed=seed, repeat=repeat) for repeat in range(deals)])
    seen = Seen(manifest.ids[rows], y, dealt, per_class).first(len(y))
    if not seen.scored.any():
        raise UserError(
            f"{len(y)} training images are too few to advise on: none can be held out",
            allowed="a class or more with two images that share no group and no content",
        )
    return seen


def _deal(strata: Sequence[Sequence[splits.Unit]], n: int, *, folds: int, seed: int, repeat: int) -> Ints:
    """(n,) the fold of each row."""
    # The last fold is what the others leave.
    dealt = splits.cut(strata, {str(i): 1 / folds for i in range(folds - 1)}, seed=seed, repeat=repeat)
    fold = np.full(n, folds - 1)
    for number, members in dealt.items():
        fold[members] = int(number)
    return fold


def _with_every_class(y: Ints, fold: Ints) -> Ints:
    """`fold` with -1 where holding a fold out would leave a class without a training row."""
    kept = fold.copy()
    for c in np.unique(y):
        own = y == c
        if len(np.unique(fold[own])) == 1:
            kept[own] = -1
    return kept
