"""The codes of a tuned network beside those of its source: what tuning did for heads and for search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.figures.records.files import Figures
from pipeline.figures.records.training import Pair
from pipeline.report.notes import sentences
from pipeline.report.section import MINUS, NONE, Section, count, number, percent, percent_ticks, render
from pipeline.report.svg import Chart, both_widths, share_span, swatch


def build(figures: Figures) -> Section | None:
    found = figures.tuned_network
    if found is None:
        return None
    record = found.record
    html = render(
        "tuned_network.html",
        record=record,
        view=record["view"],
        size=record["view"]["crop"],
        counts={split: count(record[f"n_{split}"]) for split in ("train", "val", "test")},
        rows=[(pair, *_cells(pair)) for pair in found.pairs],
        left_out=[(side, name, why) for side, names in record["left_out"].items() for name, why in names.items()],
        chart=both_widths(partial(_draw, found.pairs)),
        legend=[
            (swatch("c0", shape="square"), "source"),
            (swatch("c1", shape="circle"), f"tuned: {record['strategy']}"),
        ],
        notes=sentences(found.heads),
        alpha=figures.about.alpha,
    )
    table = [[p.what, p.figure, p.source, p.tuned, p.gain, p.p] for p in found.pairs]
    header = ["what", "figure", "source", "tuned", "gain", "p"]
    return Section("The tuned network's codes", html, files={"tuned_network.csv": csv_files.table(header, table)})


def _cells(pair: Pair) -> tuple[str, str, str, str]:
    """Source, tuned, gain in points, p."""
    shares = [NONE if value is None else number(100 * value, 1) for value in (pair.source, pair.tuned)]
    gain = NONE if pair.gain is None else f"{100 * pair.gain:+.1f}".replace("-", MINUS)
    return shares[0], shares[1], gain, NONE if pair.p is None else number(pair.p, 3)


def _draw(pairs: Sequence[Pair], width: int) -> Markup:
    """A column a figure: the source's value, the tuned network's, and a line from one to the other."""
    values = [v for pair in pairs for v in (pair.source, pair.tuned) if v is not None]
    low, high = share_span(values, margin=0.12)
    chart = Chart.sized(width, (-0.6, len(pairs) - 0.4), (low, high), ratio=0.36, bottom=104)
    ticks = [(float(i), f"{pair.what}") for i, pair in enumerate(pairs)]
    chart.axes(
        "", "accuracy, or mAP of a search", x_format=str, y_format=percent_ticks(low, high), x_ticks=ticks, tilt=True
    )
    for i, pair in enumerate(pairs):
        if pair.source is not None and pair.tuned is not None:
            chart.line([(i, pair.source), (i, pair.tuned)], "c1")
        for side, value, look, shape in (
            ("source", pair.source, "c0", "square"),
            ("tuned", pair.tuned, "c1", "circle"),
        ):
            if value is not None:
                chart.dot(i, value, f"{pair.what}, {side}: {pair.figure} {percent(value)}", look, shape=shape)
    return chart.render("Figures of the source and of the tuned network; they are in the table")
