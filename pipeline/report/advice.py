"""What the advise stage left, and what was then measured of it on test images that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.manifest import Manifest
from pipeline.metrics.significance import mcnemar_exact
from pipeline.report.runs import Run
from pipeline.schema import read_json

# The heads that the advice speaks of, the first that was trained.
LINEAR = ("svm", "softmax", "svm_cs", "softmax_elastic", "softmax_l1")


@dataclass(frozen=True)
class Outcome:
    """The advised codes against the best ones, by one head, on the test images of the first split.

    `lag`: accuracy that the advised ones lack; `p`: of McNemar's exact test. `means`: over all splits, advised and
    best there; the other splits' test images were among those that the advice was made from, unless test is given.
    """

    advised: Run
    best: Run
    lag: float
    p: float
    means: tuple[float, float]

    def agrees(self, alpha: float) -> bool:
        """Within two points of the best, or within noise."""
        return self.lag <= 0.02 or self.p > alpha


def read_advice(folder: Path, manifest: Manifest, specs: Sequence[str]) -> Mapping[str, Any] | None:
    """metrics.json; None if there is none, or it was made of other images or other codes."""
    if not (folder / "metrics.json").is_file():
        return None
    record: Mapping[str, Any] = read_json(folder / "metrics.json")
    if "skipped" in record or {row["spec"] for row in record["layers"]} != set(specs):
        return None
    seen = int(((manifest.splits[0] != "test") & (manifest.targets >= 0)).sum())
    return record if record["images"] <= seen and record["classes"] <= len(manifest.classes) else None


def outcome(record: Mapping[str, Any], runs: Sequence[Run]) -> Outcome | None:
    """None without a linear head among the results."""
    heads = {run.head for run in runs}
    head = next((name for name in LINEAR if name in heads), None)
    of_head = [run for run in runs if run.head == head]
    advised = next((run for run in of_head if run.spec.name == record["spec"]), None)
    if advised is None:
        return None
    best = max(of_head, key=first_accuracy)
    p = mcnemar_exact(advised.predictions(0).correct, best.predictions(0).correct)
    means = (advised.mean("accuracy"), float(np.max([run.mean("accuracy") for run in of_head])))
    return Outcome(advised, best, first_accuracy(best) - first_accuracy(advised), p, means)


def first_accuracy(run: Run) -> float:
    """On the test images of the first split."""
    return float(run.repeats[0]["accuracy"])
