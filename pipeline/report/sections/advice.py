"""What to transfer and how, as advised from the training images alone, and whether the measurements agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from pipeline.base import csv_files
from pipeline.config import LayerSpec
from pipeline.figures.records.files import Figures
from pipeline.report.advised import say
from pipeline.report.section import Section, number, percent, percent_ticks, render
from pipeline.report.svg import WIDE, Chart, both_widths, share_span, swatch


def build(figures: Figures) -> Section | None:
    found = figures.advice
    if found is None:
        return None
    record, alpha = found.record, figures.about.alpha
    rows = _in_order(figures, record)
    ratios = {one["spec"]: one["ratio"] for one in record["distances"]}
    html = render(
        "advice.html",
        record=record,
        says=record["says"],
        rows=[row | {"ratio": ratios.get(row["spec"]), "measured": found.measured.get(row["spec"])} for row in rows],
        with_ratio=bool(ratios),
        found=found.outcome,
        agrees=found.outcome is not None and found.outcome.agrees(alpha),
        chart=both_widths(lambda width: _draw(record, rows, found.measured, width)),
        legend=_legend(found.measured),
        against=[] if found.standing is None else [_stressed(text) for text in say(found.standing, alpha)],
    )
    header = ["spec", "cross_validated", "se", "knn", "logme", "h_score", "distance_ratio", "test_of_first_split"]
    columns = ("spec", "accuracy", "se", "knn", "logme", "h_score")
    table = [[*(row[c] for c in columns), ratios.get(row["spec"]), found.measured.get(row["spec"])] for row in rows]
    return Section("Advice", html, files={"advice.csv": csv_files.table(header, table)})


def _stressed(text: str) -> Markup:
    """What stands between two ** in strong type; all else escaped."""
    parts = [escape(part) for part in text.split("**")]
    return Markup("").join(Markup("<strong>{}</strong>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _in_order(figures: Figures, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record's layers in the order of the network."""
    return sorted(record["layers"], key=lambda row: figures.about.depth(LayerSpec.parse(row["spec"])))


def _legend(measured: Mapping[str, float]) -> list[tuple[Markup, str]]:
    entries = [(swatch("c0"), "least squares, held out of train and val"), (swatch("c2"), "k-NN, the same")]
    if measured:
        entries.append((swatch("ink hollow", shape="diamond"), "then measured on test"))
    return entries


def _draw(
    record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], measured: Mapping[str, float], width: int
) -> Markup:
    heights = [row["accuracy"] + side * row["se"] for row in rows for side in (-1, 1)]
    low, high = share_span([*heights, *(row["knn"] for row in rows), *measured.values()])
    chart = Chart.sized(width, (-0.4, len(rows) - 0.6), (low, high), bottom=92)
    chart.axes(
        "codes, in the order of the network",
        record["measure"],
        x_format=str,
        y_format=percent_ticks(low, high),
        x_ticks=[(place, row["spec"]) for place, row in enumerate(rows)],
        tilt=True,
    )
    chart.line([(place, row["knn"]) for place, row in enumerate(rows)], "c2")
    chart.line([(place, row["accuracy"]) for place, row in enumerate(rows)], "c0")
    step = 6.0 if width == WIDE else 3.0
    for place, row in enumerate(rows):
        spec, accuracy, se = row["spec"], row["accuracy"], row["se"]
        chart.whisker(place, max(accuracy - se, 0.0), min(accuracy + se, 1.0), "c0")
        chart.dot(place, row["knn"], f"{spec}, k-NN: {percent(row['knn'])}", "c2", shape="triangle")
        chart.dot(place, accuracy, f"{spec}: {percent(accuracy)} ± {number(100 * se, 1)}", "c0")
        if spec in measured:
            title = f"{spec}, test: {percent(measured[spec])}"
            chart.dot(place, measured[spec], title, "ink hollow", shape="diamond", shift=step)
    chosen = next(place for place, row in enumerate(rows) if row["spec"] == record["spec"])
    boxes = [chart.box(place, row["accuracy"]) for place, row in enumerate(rows)]
    chart.label("advised", chosen, rows[chosen]["accuracy"], boxes)
    return chart.render(f"{record['measure']} of each layer's codes by cross-validation; the figures are in the table")
