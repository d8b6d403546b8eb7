"""The page: its sections in order, and the files beside it.

A new section is one module in `sections/` with `build(figures) -> Section | None`, one template, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from pipeline.base import disk, json_files
from pipeline.base.failing import reading
from pipeline.figures.records.files import Figures
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

Build = Callable[[Figures], Section | None]

# Anchor -> what builds the section; None where the figures have nothing for it.
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


def write_report(shown: Figures, out: Path) -> None:
    """Writes index.html, metrics.json and the tables as CSV into `out`.

    The same figures give the same bytes: nothing on the page tells when or where it was made.
    """
    built = {anchor: build(shown) for anchor, build in SECTIONS.items()}
    sections = {anchor: section for anchor, section in built.items() if section is not None}
    files = dict(shown.tables)
    for section in sections.values():
        files |= section.files
    for name, text in files.items():
        disk.write_text(out / name, text)
    json_files.write(out / "metrics.json", shown.metrics)
    page = render(
        "page.html",
        title=f"CNN codes of {shown.about.name}",
        subtitle=_subtitle(shown),
        sections=sections,
        files=[*sorted(files), "metrics.json"],
        style=asset("page.css"),
        script=asset("page.js"),
    )
    disk.write_text(out / "index.html", page)
    disk.clear_leftovers(out, "*")


def _subtitle(shown: Figures) -> str:
    if shown.runs:
        return "Which layer and which head suit these images, as measured."
    if shown.strategies is not None:
        return "Which way of training suits these images, as measured."
    return "What the network sees in these images."


def asset(name: str) -> Markup:
    """A file of our own, to be inlined as it is."""
    with reading(Path(__file__).parent / "templates" / name) as file:
        return Markup(file.read().decode())
