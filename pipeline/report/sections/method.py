"""How it was made: the images, the splits, the weights, and every setting of the codes and the heads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.figures.records.about import About, Method
from pipeline.figures.records.files import Figures
from pipeline.report.section import Section, count, render

# Settings that name the kind of code, and so differ between the specs of one run.
PER_SPEC = ("layer", "pooling", "sigmoid", "l2", "spec", "dim")


def build(figures: Figures) -> Section:
    about, made = figures.about, figures.method
    html = render(
        "method.html",
        data=_data(about, made),
        splits=_splits(made),
        class_sizes=made.class_sizes,
        classes_left=len(about.classes) - len(made.class_sizes),
        weights=_weights(made.weights),
        codes=_common(made.codes),
        heads=sorted((k, plain(v)) for k, v in made.heads.items()),
        trained=made.trained,
        failures=made.failures,
        failures_left=about.lost - len(made.failures),
    )
    return Section("How it was made", html)


def _data(about: About, made: Method) -> list[tuple[str, str]]:
    return [
        ("source", made.source),
        ("images", count(about.images)),
        *([("images without a label", count(made.unlabelled))] if made.unlabelled else []),
        ("unreadable images", count(about.lost)),
        ("other files", count(made.other_files)),
        ("left out", count(made.left_out)),
        ("classes", count(len(about.classes)) if about.classes else "no labels"),
        ("splits", count(made.repeats)),
        ("given by the source", ", ".join(made.from_source) or "none"),
        ("seed of the splits", str(made.seed)),
    ]


def _splits(made: Method) -> list[tuple[str, str]]:
    """Images of train, val and test, as a range where splits differ."""
    return [
        (split, count(low) if low == high else f"{count(low)} to {count(high)}")
        for split, (low, high) in made.splits.items()
    ]


def _weights(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where they come from; what they do to an image is among the codes' settings."""
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


def plain(value: Any) -> str:
    """A setting as words: JSON without its quotes around plain text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
