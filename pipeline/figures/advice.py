"""What the advise stage left, and what was then measured of it on test images that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.base import json_files
from pipeline.base.skipped import reason_in
from pipeline.data.manifest import Manifest
from pipeline.figures.advised import of_head, standing
from pipeline.figures.computed import Computed
from pipeline.figures.records.advice import Advice, Outcome, Standing
from pipeline.figures.records.runs import Run
from pipeline.figures.records.strategies import Baseline
from pipeline.figures.runs import predictions
from pipeline.metrics.significance import mcnemar_exact

if TYPE_CHECKING:
    from pipeline.figures.inputs import Inputs

# The heads that the advice speaks of, the first that was trained.
LINEAR = ("svm", "softmax", "svm_cs", "softmax_elastic", "softmax_l1")


def read_advice(folder: Path, manifest: Manifest, specs: Sequence[str]) -> Mapping[str, Any] | None:
    """metrics.json; None if there is none, or it was made of other images or other codes."""
    if not (folder / "metrics.json").is_file():
        return None
    record: Mapping[str, Any] = json_files.read(folder / "metrics.json")
    if reason_in(record) or {row["spec"] for row in record["layers"]} != set(specs):
        return None
    seen = int(((manifest.splits[0] != "test") & (manifest.targets >= 0)).sum())
    return record if record["images"] <= seen and record["classes"] <= len(manifest.classes) else None


def compute(inputs: Inputs) -> Computed | None:
    record = inputs.advice
    if record is None:
        return None
    found = outcome(record, inputs.runs, inputs.root / "heads")
    measured = {} if found is None else {r.spec.name: r.first_accuracy for r in inputs.runs if r.head == found.head}
    against = _standing(inputs, record, found)
    metrics: dict[str, Any] = {"codes": record["spec"], "transfer": record["transfer"], "worth": record["worth"]}
    if found is not None:
        metrics["behind_best"] = round(found.lag, 6)
    return Computed(Advice(record, found, measured, against), {"advice": metrics})


def _standing(inputs: Inputs, record: Mapping[str, Any], found: Outcome | None) -> Standing | None:
    """The advised way against the strategies, over the splits that both have."""
    if not inputs.finetuned:
        return None
    head = None
    if found is not None:
        run = next(r for r in inputs.runs if (r.head, r.spec.name) == (found.head, found.advised))
        own = Baseline(run, run.repeats[: len(inputs.finetuned[0].repeats)])
        head = of_head(own, inputs.root / "heads", size=inputs.side(found.advised))
    return standing(record, inputs.finetuned, inputs.root / "finetune", head)


def outcome(record: Mapping[str, Any], runs: Sequence[Run], folder: Path) -> Outcome | None:
    """None without a linear head among the results. `folder` has all heads' predictions."""
    heads = {run.head for run in runs}
    head = next((name for name in LINEAR if name in heads), "")
    of_head = [run for run in runs if run.head == head]
    advised = next((run for run in of_head if run.spec.name == record["spec"]), None)
    if advised is None:
        return None
    best = max(of_head, key=lambda run: run.first_accuracy)
    p = mcnemar_exact(predictions(folder, advised, 0).correct, predictions(folder, best, 0).correct)
    means = (advised.mean("accuracy"), float(np.max([run.mean("accuracy") for run in of_head])))
    return Outcome(head, advised.spec.name, best.spec.name, best.first_accuracy - advised.first_accuracy, p, means)
