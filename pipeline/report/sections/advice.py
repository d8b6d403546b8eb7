"""What to transfer and how, as advised from the training images alone, and whether the measurements agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from pipeline.config import LayerSpec
from pipeline.report.advice import Outcome, first_accuracy, outcome
from pipeline.report.advised import Side, Standing, say, standing
from pipeline.report.inputs import Inputs
from pipeline.report.section import Section, csv_text, number, percent, percent_ticks, render
from pipeline.report.svg import WIDE, Chart, both_widths, share_span, swatch


def build(inputs: Inputs) -> Section | None:
    record = inputs.advice
    if record is None:
        return None
    found = outcome(record, inputs.runs)
    measured = _measured(inputs, found)
    rows = _in_order(inputs, record)
    ratios = {one["spec"]: one["ratio"] for one in record["distances"]}
    against = _standing(inputs, record, found)
    html = render(
        "advice.html",
        record=record,
        says=record["says"],
        rows=[row | {"ratio": ratios.get(row["spec"]), "measured": measured.get(row["spec"])} for row in rows],
        with_ratio=bool(ratios),
        found=found,
        agrees=found is not None and found.agrees(inputs.params.alpha),
        chart=both_widths(lambda width: _draw(inputs, record, measured, width)),
        legend=_legend(measured),
        against=[] if against is None else [_stressed(text) for text in say(against, inputs.params.alpha)],
    )
    header = ["spec", "cross_validated", "se", "knn", "logme", "h_score", "distance_ratio", "test_of_first_split"]
    columns = ("spec", "accuracy", "se", "knn", "logme", "h_score")
    table = [[*(row[c] for c in columns), ratios.get(row["spec"]), measured.get(row["spec"])] for row in rows]
    metrics: dict[str, Any] = {key: record[key] for key in ("spec", "size", "likeness", "transfer", "worth")}
    if found is not None:
        metrics |= {"lag": found.lag, "p": found.p}
    if against is not None and against.alike is not None:
        duel = against.alike
        metrics["strategies"] = {"advised": duel.advised.name, "other": duel.other.name, "lag": duel.lag, "p": duel.p}
    return Section("Advice", html, files={"advice.csv": csv_text(header, table)}, metrics={"advice": metrics})


def _standing(inputs: Inputs, record: Mapping[str, Any], found: Outcome | None) -> Standing | None:
    """The advised way against the strategies, over the splits that both have."""
    if not inputs.tuned:
        return None
    head = None
    if found is not None:
        size = inputs.side(found.advised.spec.name)
        head = Side.of_head(found.advised, size=size, repeats=len(inputs.tuned[0].repeats))
    return standing(record, inputs.tuned, head)


def _stressed(text: str) -> Markup:
    """What stands between two ** in strong type; all else escaped."""
    parts = [escape(part) for part in text.split("**")]
    return Markup("").join(Markup("<strong>{}</strong>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _measured(inputs: Inputs, found: Outcome | None) -> dict[str, float]:
    """spec -> test accuracy of the first split, by the head of `found`."""
    if found is None:
        return {}
    return {run.spec.name: first_accuracy(run) for run in inputs.runs if run.head == found.advised.head}


def _in_order(inputs: Inputs, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record's layers in the order of the network."""
    return sorted(record["layers"], key=lambda row: inputs.depth(LayerSpec.parse(row["spec"])))


def _legend(measured: Mapping[str, float]) -> list[tuple[Markup, str]]:
    entries = [(swatch("c0"), "least squares, held out of train and val"), (swatch("c2"), "k-NN, the same")]
    if measured:
        entries.append((swatch("ink hollow", shape="diamond"), "then measured on test"))
    return entries


def _draw(inputs: Inputs, record: Mapping[str, Any], measured: Mapping[str, float], width: int) -> Markup:
    rows = _in_order(inputs, record)
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
