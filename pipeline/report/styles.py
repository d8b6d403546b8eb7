"""What a colour and a marker mean, the same in every chart: the head is the colour, the pooling the marker."""

from __future__ import annotations

from markupsafe import Markup

from pipeline.config import POOLINGS
from pipeline.report.inputs import Inputs
from pipeline.report.runs import Run
from pipeline.report.svg import MARKERS, swatch

POOLING_MARKERS: dict[str, str] = dict(zip(POOLINGS, ("square", "circle", *list(MARKERS)[1:]), strict=True))


def head_class(inputs: Inputs, head: str) -> str:
    return f"c{inputs.heads.index(head)}"


def mark_class(inputs: Inputs, run: Run) -> str:
    """Codes that were L2-normalised when they were made are hollow."""
    return head_class(inputs, run.head) + (" hollow" if run.spec.l2 else "")


def mark_shape(run: Run) -> str:
    return POOLING_MARKERS[run.spec.pooling]


def legend(inputs: Inputs) -> list[tuple[Markup, str]]:
    """(sample, words) of every head and pooling in use."""
    entries = [(swatch(head_class(inputs, head)), head) for head in inputs.heads]
    poolings = dict.fromkeys((run.spec.pooling, run.spec.l2) for run in inputs.runs)
    for pooling, l2 in poolings:
        sample = swatch("ink hollow" if l2 else "ink", shape=POOLING_MARKERS[pooling])
        entries.append((sample, f"{pooling}, L2-normalised" if l2 else pooling))
    return entries
