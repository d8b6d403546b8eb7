"""Computes all figures of the page. A new one is a record in `records/`, a field of `Figures`, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

from pipeline.config import HeadsParams, ReportParams
from pipeline.figures import (
    about,
    advice,
    codes_map,
    confusion,
    copies,
    curve,
    mistakes,
    retrieval,
    sanity,
    strategies,
)
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs, Wanted, read_inputs
from pipeline.figures.records.files import Figures, write

# Field of `Figures` -> what computes it; None where the inputs have nothing for it.
COMPUTE: dict[str, Callable[[Inputs], Computed | None]] = {
    "about": about.about,
    "copies": copies.compute,
    "comparison": about.comparison,
    "curve": curve.compute,
    "confusion": confusion.compute,
    "mistakes": mistakes.compute,
    "map": codes_map.compute,
    "advice": advice.compute,
    "sanity": sanity.compute,
    "strategies": strategies.compute,
    "tuned_network": about.tuned_network,
    "retrieval": retrieval.compute,
    "method": about.method,
}


def compute(root: Path, params: ReportParams, *, heads: HeadsParams, **wanted: Unpack[Wanted]) -> Path:
    """Makes `root`/figures from what the earlier stages left beside it, and returns it. Raises UserError.

    Results that neither `wanted` nor `heads.heads` names, left from earlier params, stay out. The same inputs give the
    same bytes.
    """
    folder = root / "figures"
    write(figures_of(read_inputs(root, params, heads=heads, **wanted)), folder)
    return folder


def figures_of(inputs: Inputs) -> Figures:
    done = {name: computed for name, one in COMPUTE.items() if (computed := one(inputs)) is not None}
    metrics: dict[str, Any] = {}
    tables: dict[str, str] = {}
    for name, computed in done.items():
        clash = sorted(metrics.keys() & computed.metrics.keys())
        if clash:
            raise ValueError(f"{name} repeats metrics {clash}")
        metrics |= computed.metrics
        tables |= computed.tables
    records = {name: computed.record for name, computed in done.items()}
    return Figures(metrics=metrics, thumbnails=_made(inputs), tables=tables, **records)


def _made(inputs: Inputs) -> dict[str, str]:
    return {name: uri for name, uri in sorted(inputs.album.made.items()) if uri}
