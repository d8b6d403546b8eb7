"""The hashes that were measured, and queries with what some of them find."""

from __future__ import annotations

from dataclasses import replace

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
    figures = {"spec": best.name, "nbits": best.nbits, results.quality: round(results.value(best), 6)}
    return Computed(replace(results, queries=shown(inputs, methods(results))), {"retrieval": figures})
