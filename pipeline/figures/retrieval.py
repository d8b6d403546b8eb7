"""The hashes that were measured, and queries with what some of them find."""

from __future__ import annotations

from dataclasses import replace

from pipeline.base.disk import small_text
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.neighbours import methods, shown
from pipeline.figures.records.retrieval import Retrieval


def compute(inputs: Inputs) -> Computed | None:
    if not inputs.retrieved:
        return None
    results = Retrieval(inputs.retrieved, bool(inputs.manifest.classes))
    if not results.hashes:
        return Computed(results)
    best = results.best
    figures = {"name": best.name, results.quality: round(results.value(best), 6)}
    curve = inputs.root / "retrieval" / best.name / "curve.csv"
    tables = {"plots/precision.csv": small_text(curve)} if curve.is_file() else {}
    return Computed(replace(results, queries=shown(inputs, methods(results))), {"best_hash": figures}, tables)
