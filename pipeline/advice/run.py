"""The advice: measured on train and val of the first split, decided by the rule, written with the numbers behind it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.advice import reference as references
from pipeline.advice.measure import Scored, expected, measure
from pipeline.advice.reference import Distance, Reference
from pipeline.advice.rule import RULE, Depth, Likeness, Size, by_depth, top_half
from pipeline.advice.seen import Seen, seen_of
from pipeline.advice.words import say
from pipeline.base import csv_files, disk, json_files
from pipeline.base.errors import UserError
from pipeline.base.skipped import Skipped
from pipeline.codes.reader import Codes
from pipeline.config import AdviseParams, HeadsParams
from pipeline.data.manifest import Manifest

log = logging.getLogger(__name__)

METRICS, LAYERS, CURVE = "metrics.json", "layers.csv", "curve.csv"


def advise(
    codes: Mapping[str, Codes],
    manifest: Manifest,
    params: AdviseParams,
    heads: HeadsParams,
    *,
    reference: Reference | None = None,
) -> dict[str, Any]:
    """What metrics.json holds (docs/architecture.md). Without labels it says that the advice was skipped.

    Nothing of the test split is read: neither its labels nor its codes change a byte. Raises UserError if there is too
    little to judge by, or if the reference was made with other weights or another preprocessing.
    """
    if not manifest.classes:
        return Skipped("no labels").record()
    if reference is not None:
        references.require_same(reference, {spec: one.settings for spec, one in codes.items()})
    most = _most_rows(codes, params, heads)
    seen = seen_of(manifest, codes, most=most, folds=params.folds, seed=params.seed)
    found = _measure_all(codes, seen, params, heads)
    hopes = expected(found, seen.images)
    arch = str(next(iter(codes.values())).settings["arch"])
    depth = by_depth(found, hopes, arch=arch, points=params.alike_points)
    distances = _distances(codes, seen, params, reference)
    size: Size = "small" if float(np.median(seen.per_class)) < params.small_images else "large"
    likeness, judged_by = _likeness(depth, distances, params)
    case = RULE[size, likeness]
    majority = float(seen.per_class.max() / seen.images) if heads.class_weight == "none" else 1 / seen.k
    last = depth.best.curve[-1]
    worth = last.accuracy - majority > max(params.worth_points, 2 * last.se)
    record: dict[str, Any] = {
        "spec": depth.best.spec,
        "size": size,
        "likeness": likeness,
        "likeness_by": judged_by,
        "transfer": case.transfer,
        "kinds": list(case.kinds),
        "worth": bool(worth),
        "from_layer": top_half(arch) if (size, likeness) == ("large", "alike") else None,
        "images": seen.images,
        "scored": len(seen),
        "deals": len(seen.folds),
        "classes": seen.k,
        "per_class": {"min": int(seen.per_class.min()), "median": float(np.median(seen.per_class))},
        "measure": "accuracy" if heads.class_weight == "none" else "mean class recall",
        "majority": majority,
        "top": {"spec": depth.top.spec, "lag": depth.lag, "lag_se": depth.lag_se, "allowed": depth.allowed},
        "doubling": depth.best.doubling(),
        "settings": params.model_dump() | {"reference": None if reference is None else reference.name},
        "distances": [_distance(one) for one in distances],
        "layers": [_layer(layer, depth.best, hopes[layer.spec]) for layer in found],
        "leader": depth.leader.spec,
        "level": [layer.spec for layer in depth.level],
        "favourites": _favourites(depth.level),
    }
    record["says"] = say(record, case)
    return record


def write(record: Mapping[str, Any], out: str | Path) -> None:
    """metrics.json, layers.csv (a line a spec) and curve.csv (a line a spec and number of images) in the folder `out`.

    Without advice the CSV files hold their headers.
    """
    out = Path(out)
    rows = record.get("layers", [])
    columns = ("spec", "dim", "accuracy", "se", "behind", "behind_se", "expected", "knn", "knn_k", "logme", "h_score")
    disk.write_text(out / LAYERS, csv_files.table(columns, [[row[c] for c in columns] for row in rows]))
    points = [[row["spec"], p["n"], p["accuracy"], p["se"]] for row in rows for p in row["curve"]]
    disk.write_text(out / CURVE, csv_files.table(("spec", "n", "accuracy", "se"), points))
    json_files.write_last(out / METRICS, dict(record))


def _most_rows(codes: Mapping[str, Codes], params: AdviseParams, heads: HeadsParams) -> int:
    """Rows whose longest codes fit into half of heads.fit.memory_mb, up to max_images: all layers see the same rows."""
    if not codes:
        raise UserError("there are no codes to advise on", see="codes.layers in params.yaml")
    return min(params.max_images, (heads.memory_mb << 19) // (4 * max(one.dim for one in codes.values())))


def _measure_all(codes: Mapping[str, Codes], seen: Seen, params: AdviseParams, heads: HeadsParams) -> list[Scored]:
    """A layer a thread, each with one thread of BLAS: the same digits on any number of cores, and no waiting."""

    def one(spec: str) -> Scored:
        return measure(codes[spec], seen, heads, shares=params.learning_curve, probe=params.probe_images)

    with threadpool_limits(limits=1), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(one, codes))


def _distances(
    codes: Mapping[str, Codes], seen: Seen, params: AdviseParams, reference: Reference | None
) -> list[Distance]:
    if reference is None:
        return []
    ids = seen.ids[: params.probe_images]
    known = [spec for spec in codes if spec in reference.rows]
    found = [references.distance(codes[spec].by_id(ids), reference, spec) for spec in known]
    return [one for one in found if one is not None]


def _likeness(depth: Depth, distances: Sequence[Distance], params: AdviseParams) -> tuple[Likeness, str]:
    """By the layers where they tell, else by the reference, else alike, which is the usual case; and by which."""
    if depth.alike is not None:
        return ("alike" if depth.alike else "different"), "depth"
    for one in distances:
        if one.spec == depth.top.spec:
            return ("alike" if one.ratio <= params.alike_distance else "different"), "reference"
    return "alike", "nothing"


def _favourites(level: Sequence[Scored]) -> dict[str, str]:
    """The spec that each of the other measures prefers, of those that cross-validation finds level."""
    return {
        "knn": max(level, key=lambda layer: layer.knn).spec,
        "logme": max(level, key=lambda layer: layer.logme).spec,
        "h_score": max(level, key=lambda layer: layer.h_score).spec,
    }


def _layer(layer: Scored, best: Scored, hope: float) -> dict[str, Any]:
    behind, se = layer.behind(best)
    last = layer.curve[-1]
    return {
        "spec": layer.spec,
        "dim": layer.dim,
        "accuracy": last.accuracy,
        "se": last.se,
        "ridge": last.ridge,
        "behind": behind,
        "behind_se": se,
        "expected": hope,
        "knn": layer.knn,
        "knn_k": layer.knn_k,
        "logme": layer.logme,
        "h_score": layer.h_score,
        "curve": [{"n": p.n, "accuracy": p.accuracy, "se": p.se} for p in layer.curve],
    }


def _distance(one: Distance) -> dict[str, Any]:
    return {
        "spec": one.spec,
        "distance": one.distance,
        "yardstick": one.yardstick,
        "ratio": one.ratio,
        "images": one.images,
    }
