"""What a colour and a marker mean, the same in every chart: the head is the colour, the pooling the marker."""

from __future__ import annotations

import itertools

from markupsafe import Markup

from pipeline.config import POOLINGS
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import Run
from pipeline.report.svg import MARKERS, swatch

# Two of tokens alone take the shapes of the first two, which few draw beside them.
POOLING_MARKERS: dict[str, str] = dict(
    zip(POOLINGS, itertools.cycle(("square", "circle", *list(MARKERS)[1:])), strict=False)
)


# What was done to the pooled values, by the end of a spec's name: (class of its marks, words).
_MADE = {
    "": ("", ""),
    "-l2": (" hollow", ", L2-normalised"),
    "-sigmoid": (" squashed", ", sigmoid"),
    "-sigmoid-l2": (" squashed hollow", ", sigmoid, L2-normalised"),
}


def head_class(figures: Figures, head: str) -> str:
    return f"c{figures.about.heads.index(head)}"


def mark_class(figures: Figures, run: Run) -> str:
    return head_class(figures, run.head) + _MADE[run.spec.suffix][0]


def mark_shape(run: Run) -> str:
    return POOLING_MARKERS[run.spec.pooling]


def legend(figures: Figures) -> list[tuple[Markup, str]]:
    """(sample, words) of every head and pooling in use."""
    entries = [(swatch(head_class(figures, head)), head) for head in figures.about.heads]
    poolings = dict.fromkeys((run.spec.pooling, run.spec.suffix) for run in figures.runs)
    for pooling, suffix in poolings:
        class_, words = _MADE[suffix]
        entries.append((swatch(f"ink{class_}", shape=POOLING_MARKERS[pooling]), f"{pooling}{words}"))
    return entries
