"""How it was made: the images, the splits, the weights, and every setting of the codes and the heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.inputs import Inputs, plain
from pipeline.report.section import Section, count, render

FAILURES = 20  # shown; the rest are in failures.csv
CLASSES = 40

# Settings that name the kind of code, and so differ between the specs of one run.
PER_SPEC = ("layer", "pooling", "sigmoid", "l2", "spec", "dim")


def build(inputs: Inputs) -> Section:
    html = render(
        "method.html",
        data=_data(inputs),
        splits=_splits(inputs),
        class_sizes=_class_sizes(inputs),
        classes_left=max(len(inputs.manifest.classes) - CLASSES, 0),
        weights=_weights(inputs),
        codes=_common(inputs.settings),
        heads=sorted((k, plain(v)) for k, v in inputs.heads_params.model_dump().items()) if inputs.runs else [],
        trained=bool(inputs.runs or inputs.tuned),
        failures=list(inputs.lost[:FAILURES]),
        failures_left=max(len(inputs.lost) - FAILURES, 0),
    )
    return Section("How it was made", html)


def _data(inputs: Inputs) -> list[tuple[str, str]]:
    manifest = inputs.manifest
    bare = int((manifest.targets < 0).sum()) if manifest.classes else 0
    return [
        ("source", manifest.source),
        ("images", count(len(manifest))),
        *([("images without a label", count(bare))] if bare else []),
        ("unreadable images", count(len(inputs.lost))),
        ("other files", count(sum(f.kind == "not_an_image" for f in inputs.failures))),
        ("left out", count(sum(f.kind == "left_out" for f in inputs.failures))),
        ("classes", count(len(manifest.classes)) if manifest.classes else "no labels"),
        ("splits", count(manifest.repeats)),
        ("given by the source", ", ".join(manifest.from_source) or "none"),
        ("seed of the splits", str(manifest.seed)),
    ]


def _splits(inputs: Inputs) -> list[tuple[str, str]]:
    """Images of train, val and test, as a range where splits differ."""
    sizes = []
    for split in ("train", "val", "test"):
        counts = [len(inputs.manifest.rows(split, r)) for r in range(inputs.manifest.repeats)]
        low, high = min(counts), max(counts)
        sizes.append((split, count(low) if low == high else f"{count(low)} to {count(high)}"))
    return sizes


def _class_sizes(inputs: Inputs) -> list[tuple[str, int]]:
    targets = inputs.manifest.targets
    return [(name, int((targets == i).sum())) for i, name in enumerate(inputs.manifest.classes[:CLASSES])]


def _weights(inputs: Inputs) -> list[tuple[str, str]]:
    """Where they come from; what they do to an image is among the codes' settings."""
    facts = inputs.weights
    if not facts:
        return []
    named = [("architecture", plain(facts["arch"])), ("sha256", plain(facts["sha256"]))]
    return named + [(name, plain(value)) for name, value in facts["provenance"].items()]


def _common(settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The settings of all codes; one that differs is listed for each spec."""
    keys = sorted({key for one in settings.values() for key in one} - set(PER_SPEC))
    rows = []
    for key in keys:
        values = {spec: plain(one.get(key)) for spec, one in settings.items()}
        if len(set(values.values())) == 1:
            rows.append((key, next(iter(values.values()))))
        else:
            rows.append((key, "; ".join(f"{spec}: {value}" for spec, value in values.items())))
    return rows
