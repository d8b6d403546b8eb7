"""A warning where copies of one picture stand on two sides of a split, and the pairs."""

from __future__ import annotations

from pipeline.figures.records.files import Figures
from pipeline.report.section import Section, render


def build(figures: Figures) -> Section | None:
    found = figures.copies
    if found is None:
        return None
    html = render(
        "copies.html",
        pairs=[(pair, [(figures.uri(p.thumbnail), p.name) for p in pair.pictures]) for pair in found.pairs],
        found=found.found,
        left=found.found - len(found.pairs),
        most=found.most,
        cut=found.cut,
        repeats=found.repeats,
    )
    return Section("Copies across a split", html)
