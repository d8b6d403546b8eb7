"""The page: its sections in order, and the files beside it.

A new section is one module in `sections/` with `build(inputs) -> Section | None`, one template, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.failing import reading
from pipeline.report.inputs import Inputs
from pipeline.report.section import Section, render
from pipeline.report.sections import (
    advice,
    codes_map,
    confusion,
    copies,
    curve,
    depth,
    figures,
    grid,
    method,
    mistakes,
    result,
    retrieval,
    sanity,
    strategies,
    tradeoff,
    tuned_network,
)
from pipeline.schema import clear_leftovers, write_json, write_text

Build = Callable[[Inputs], Section | None]

# Anchor -> what builds the section; None where the inputs have nothing for it.
SECTIONS: dict[str, Build] = {
    "result": result.build,
    "copies": copies.build,
    "layers": grid.build,
    "depth": depth.build,
    "cost": tradeoff.build,
    "curve": curve.build,
    "confusions": confusion.build,
    "mistakes": mistakes.build,
    "map": codes_map.build,
    "advice": advice.build,
    "sanity": sanity.build,
    "strategies": strategies.build,
    "tuned": tuned_network.build,
    "retrieval": retrieval.build,
    "figures": figures.build,
    "method": method.build,
}


def write_report(inputs: Inputs, out: Path) -> dict[str, Any]:
    """Writes index.html, metrics.json and the sections' CSV files into `out`; returns the metrics.

    The same inputs give the same bytes: nothing on the page tells when or where it was made.
    """
    built = {anchor: build(inputs) for anchor, build in SECTIONS.items()}
    sections = {anchor: section for anchor, section in built.items() if section is not None}
    metrics: dict[str, Any] = {}
    for section in sections.values():
        clash = sorted(metrics.keys() & section.metrics.keys())
        if clash:
            raise ValueError(f"section {section.title!r} repeats metrics {clash}")
        metrics |= section.metrics
        for name, text in section.files.items():
            write_text(out / name, text)
    write_json(out / "metrics.json", metrics)
    files = sorted(name for section in sections.values() for name in section.files)
    page = render(
        "page.html",
        title=f"CNN codes of {inputs.name}",
        labelled=bool(inputs.runs),
        trained=bool(inputs.tuned),
        sections=sections,
        files=[*files, "metrics.json"],
        style=_asset("page.css"),
        script=_asset("page.js"),
    )
    write_text(out / "index.html", page)
    clear_leftovers(out, "*")
    return metrics


def _asset(name: str) -> Markup:
    """A file of our own, to be inlined as it is."""
    with reading(Path(__file__).parent / "templates" / name) as file:
        return Markup(file.read().decode())
