"""The images, the network and the settings; the best combination in figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.config import LayerSpec
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.about import About, Method, Picture, UsedCodes, UsedLayer
from pipeline.figures.records.runs import Comparison
from pipeline.nets import backbone

SAMPLES, SAMPLE_SIDE = 14, 88
FAILURES = 20  # told; the rest are in failures.csv
CLASSES = 40  # whose sizes are told


def about(inputs: Inputs) -> Computed:
    names = inputs.layer_order if inputs.specs else ()
    codes = tuple(UsedCodes(LayerSpec.parse(s), inputs.codes[s].dim, inputs.side(s)) for s in inputs.by_depth)
    record = About(
        name=inputs.name,
        arch=inputs.arch,
        images=len(inputs.manifest),
        classes=tuple(inputs.manifest.classes),
        lost=len(inputs.lost),
        samples=_samples(inputs),
        layers=tuple(UsedLayer(name, backbone.find(inputs.arch).require(name).receptive_field) for name in names),
        codes=codes,
        best_spec=inputs.best_spec if inputs.specs else "",
        heads=inputs.heads,
        selection=inputs.params.selection,
        alpha=inputs.params.alpha,
    )
    return Computed(record, _metrics(inputs))


def comparison(inputs: Inputs) -> Computed | None:
    return None if inputs.comparison is None else Computed(inputs.comparison)


def tuned_network(inputs: Inputs) -> Computed | None:
    found = inputs.tuned_network
    if found is None or not found.pairs:
        return None
    gains = {p.what: round(p.gain, 6) for p in found.pairs if p.gain is not None}
    return Computed(found, {"tuned_gain": gains})


def method(inputs: Inputs) -> Computed:
    manifest, targets = inputs.manifest, inputs.manifest.targets
    record = Method(
        source=manifest.source,
        unlabelled=int((targets < 0).sum()) if manifest.classes else None,
        other_files=sum(f.kind == "not_an_image" for f in inputs.failures),
        left_out=sum(f.kind == "left_out" for f in inputs.failures),
        repeats=manifest.repeats,
        from_source=tuple(manifest.from_source),
        seed=manifest.seed,
        splits={split: _sizes(inputs, split) for split in ("train", "val", "test")},
        class_sizes=tuple((name, int((targets == i).sum())) for i, name in enumerate(manifest.classes[:CLASSES])),
        weights=inputs.weights,
        codes=inputs.settings,
        heads=inputs.heads_params.model_dump() if inputs.runs else {},
        trained=bool(inputs.runs or inputs.finetuned),
        failures=tuple((f.path, f.reason) for f in inputs.lost[:FAILURES]),
    )
    return Computed(record)


def _sizes(inputs: Inputs, split: str) -> tuple[int, int]:
    """The fewest and the most images of a split over the repeats."""
    counts = [len(inputs.manifest.rows(split, r)) for r in range(inputs.manifest.repeats)]
    return min(counts), max(counts)


def _samples(inputs: Inputs) -> tuple[Picture, ...]:
    """Images spread over the classes, or over the set if there are none, with their class; those that are there."""
    album, targets = inputs.album, inputs.manifest.targets
    order = np.lexsort((np.arange(len(targets)), targets))
    picked = np.unique(np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).round().astype(int))
    rows = [int(order[i]) for i in picked]
    shown = [Picture(album.thumbnail(row, SAMPLE_SIDE), album.label(row) or album.name(row)) for row in rows]
    return tuple(picture for picture in shown if picture.thumbnail)


def _metrics(inputs: Inputs) -> dict[str, Any]:
    board = inputs.comparison
    counts = {"images": len(inputs.manifest), "classes": len(inputs.manifest.classes)}
    if board is None:
        return counts | ({"failed_images": len(inputs.lost)} if inputs.finetuned else {})
    return {**_of_best(board), **counts, "failed_images": len(inputs.lost)}


def _of_best(board: Comparison) -> dict[str, Any]:
    """Means over splits. `best_<metric>` has the highest of each head, over the layers."""
    best, spread = board.best, board.best.std(board.metric)
    found: dict[str, float] = {}
    for run in board.runs:
        value = round(run.mean(board.metric), 6)
        found[run.head] = max(value, found.get(run.head, value))
    figures = {name: round(best.mean(name), 6) for name in dict.fromkeys(("accuracy", board.metric))}
    return {
        "best": {"codes": best.spec.name, "head": best.head, **figures}
        | ({} if math.isnan(spread) else {"std": round(spread, 6)}),
        f"best_{board.metric}": found,
    }
