"""Accuracy against the number of training images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams
from pipeline.data.manifest import Manifest
from pipeline.heads.base import Targets
from pipeline.heads.registry import head_type
from pipeline.heads.select import fit_scaling, rows_of, score
from pipeline.heads.sets import sets_of
from pipeline.metrics import classify

Ints = NDArray[np.int64]


class CurvePoint(NamedTuple):
    share: float
    n_train: int
    repeat: int
    accuracy: float
    mean_class_recall: float
    macro_f1: float
    unfinished: str = ""  # how far its fit was left from the optimum


def learning_curve(
    codes: Codes,
    manifest: Manifest,
    params: HeadsParams,
    head: str,
    shares: Sequence[float],
    *,
    settings: Sequence[float],
    so_far: SoFar = NOTHING,
) -> list[CurvePoint]:
    """Test accuracy after fitting on a share of train + val, for each repeat and each of `shares` in (0, 1].

    `settings`: the C or k that each repeat chose on the whole training set (`chosen` in metrics.json; k of knn at most
    the subset's size). `so_far`: of this very curve. The subsets are stratified, nested, seeded by params.seed and the
    repeat, and hold each class at least once; of shares that come to the same number of images the largest is kept. The
    scaling is that of the whole train split.
    """
    points = []
    k = len(manifest.classes)
    for repeat, setting in zip(range(manifest.repeats), settings, strict=True):
        sets = sets_of(codes, manifest, repeat)
        scaling = fit_scaling(codes, sets.train, params)
        y = np.concatenate([sets.y_train, sets.y_val])
        order = nested_order(y, np.random.default_rng([params.seed, repeat]))
        rows = rows_of(codes, np.concatenate([sets.train, sets.val])[order], scaling, params)
        targets = Targets(y[order], k, params.class_weight == "balanced")
        test = rows_of(codes, sets.test, scaling, params)
        # Shares of few images can come to the same number: the largest stands for it.
        share_of = {max(k, round(share * len(y))): share for share in sorted(shares)}
        for n, share in share_of.items():
            piece = so_far.part(f"repeat-{repeat}-{n}")
            if (part := piece.found()) is not None:
                points.append(CurvePoint(*part.values["point"]))
                continue
            value = min(setting, n) if head_type(head).parameter == "k" else setting
            (fitted,) = head_type(head).fit(
                rows.first(n), targets.first(n), [value], seed=params.seed, so_far=piece.part("fit")
            )
            answers = classify.predicted(score(fitted, test, k, piece.part("test")))
            counts = classify.confusion(sets.y_test, answers, k)
            points.append(
                CurvePoint(
                    share,
                    n,
                    repeat,
                    classify.accuracy(counts),
                    classify.mean_class_recall(counts),
                    classify.macro_f1(counts),
                    fitted.unfinished,
                )
            )
            piece.keep(functools.partial(Part, {}, {"point": list(points[-1])}))
    return points


def nested_order(y: Ints, generator: np.random.Generator) -> Ints:
    """An order of the rows in which every prefix is stratified, and one as long as there are classes holds each class.

    Each class's rows are shuffled; row r of a class of size m stands at r / m.
    """
    shuffled = generator.permutation(len(y))
    place = np.empty(len(y))
    for c in np.unique(y):
        own = np.flatnonzero(y[shuffled] == c)
        place[own] = np.arange(len(own)) / len(own)
    return shuffled[np.argsort(place, kind="stable")]
