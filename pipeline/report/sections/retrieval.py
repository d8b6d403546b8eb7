"""Which hash finds what belongs together, at how many bits, and why raw bits fall behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.base import csv_files
from pipeline.base.skipped import reason_in
from pipeline.config import HASHER_NUMBERS
from pipeline.figures.records.files import Figures
from pipeline.figures.records.retrieval import Answer, Neighbour, Query, Retrieved
from pipeline.report.notes import sentences
from pipeline.report.section import Section, number, percent, percent_ticks, render, seconds, size
from pipeline.report.sections import hash_training
from pipeline.report.svg import HALF, MARKERS, WIDE, Chart, both_widths, log_span, share_span, span, swatch

COLOURS = 6
SHAPES = ("circle", *MARKERS)


FORMATS: dict[str, Callable[[float], str]] = {
    "share": lambda value: number(100 * value, 1),
    "bytes": size,
    "s": seconds,
    "ms": lambda value: seconds(value / 1000),
    "count": lambda value: f"{value:,.0f}",
}


@dataclass(frozen=True)
class Column:
    """A figure of metrics.json and how the table shows it."""

    figure: str
    title: str
    unit: str  # of FORMATS
    tip: str = ""


COLUMNS = (
    Column("nbits", "bits", "count"),
    Column("bytes_per_image", "bytes an image", "bytes"),
    Column("map_at_k", "mAP@{k}", "share", "precision averaged over the hits in the first {k}"),
    Column("map_at_k_possible", "over possible", "share", "the same divided by the hits that were possible"),
    Column("map_all", "mAP, all", "share"),
    Column("precision_at_k", "precision@{k}", "share"),
    Column(
        "precision_within_radius", "within {radius} bits", "share", "precision; a query that finds nothing counts 0"
    ),
    Column("recall_at_neighbours", "cosine {neighbours} in {neighbours}", "share", "true cosine neighbours found"),
    Column("recall_at_k", "cosine {neighbours} in {k}", "share", "true cosine neighbours found"),
    Column("linear.accuracy", "linear head", "share", "accuracy of a linear SVM on the bits"),
    Column("popcount.sparse_share", "to the sparsest quarter", "share", "of the nearest places; a quarter if fair"),
    Column("rounding_loss", "lost by rounding", "share", "mAP of the code before it was cut, less that of the bits"),
    Column("fit_s", "fit", "s"),
    Column("encode_ms", "hash an image", "ms"),
    Column("build_s", "build", "s"),
    Column("query_p50_ms", "query, median", "ms"),
    Column("query_p99_ms", "query, 99 %", "ms"),
    Column("batch_p50_ms", "in a batch", "ms", "a query in a batch of 100"),
)


def build(figures: Figures) -> Section | None:
    results = figures.retrieval
    if results is None:
        return None
    found, hashes, quality = results.found, results.hashes, results.quality
    left_out = [one for one in results.every if one.skipped]
    if not hashes:
        return Section("Retrieval", render("left_out.html", left_out=left_out)) if left_out else None
    first = found[0].record
    names = {key: first[key] for key in ("k", "neighbours", "radius")}
    title = f"mAP@{first['k']}" if quality == "map_at_k" else f"recall@{first['neighbours']} against cosine"
    best = results.best
    columns = [c for c in COLUMNS if any(one.figure(c.figure) is not None for one in found)]
    training = {one.name: one.training for one in hashes if one.training}
    html = render(
        "retrieval.html",
        first=first,
        labelled=results.labelled,
        title=title,
        best=best,
        best_value=FORMATS["share"](_value(best, quality)),
        best_size=size(best.record["bytes_per_image"]),
        reference=(reference := results.reference_of(best)),
        reference_value=None if reference is None else FORMATS["share"](_value(reference, quality)),
        reference_size=None if reference is None else size(reference.record["bytes_per_image"]),
        legend=_legend(hashes),
        quality_chart=both_widths(lambda width: _draw_quality(found, hashes, quality, title, width), wide=HALF),
        spread_chart=both_widths(lambda width: _draw_spread(hashes, width), wide=HALF),
        titles=[(c.title.format(**names), c.tip.format(**names)) for c in columns],
        rows=[
            [(one.name, one.name), *(_cell(one, c) for c in columns)]
            for one in sorted(found, key=lambda one: -_value(one, quality))
        ],
        sparse=sorted(((one.name, one.figure("popcount.sparse_share") or 0.0) for one in hashes), key=lambda s: -s[1])[
            :3
        ],
        queries=[_query(figures, query) for query in results.queries],
        approximate=_approximate(hashes),
        left_out=left_out,
        notes=sentences((one.name, [one.record.get("linear") or {}]) for one in found),
        trained=[(name, hash_training.draw(rows)) for name, rows in training.items()],
    )
    table = [
        [one.name, one.spec.hasher, one.spec.codes.name, *(one.figure(c.figure) for c in COLUMNS), one.skipped]
        for one in results.every
    ]
    files = {
        "retrieval.csv": csv_files.table(["spec", "hasher", "codes", *(c.figure for c in COLUMNS), "skipped"], table),
        "plots/retrieval.csv": csv_files.table(
            ["hasher", "codes", "nbits", quality],
            [[one.spec.hasher, one.spec.codes.name, one.nbits, one.figure(quality)] for one in hashes],
        ),
        "plots/hash_training.csv": csv_files.table(
            ["spec", *hash_training.COLUMNS],
            [
                [name, *(row.get(c, "") for c in hash_training.COLUMNS)]
                for name, rows in training.items()
                for row in rows
            ],
        ),
    }
    return Section("Retrieval", html, files=files)


def _query(figures: Figures, query: Query) -> dict[str, Any]:
    return {
        "picture": figures.uri(query.picture.thumbnail),
        "name": query.picture.name,
        "label": query.label,
        "found": [
            (answer.words, answer.name, [_near(figures, one, answer) for one in answer.neighbours])
            for answer in query.answers
        ],
    }


def _near(figures: Figures, one: Neighbour, answer: Answer) -> dict[str, str]:
    apart = f"cosine {number(1 - one.distance, 3)}" if answer.is_reference else f"{int(one.distance):,} bits apart"
    words = " · ".join(w for w in (one.label, one.picture.name, apart) if w)
    return {"picture": figures.uri(one.picture.thumbnail), "words": words, "hit": one.hit}


def _value(one: Retrieved, quality: str) -> float:
    return one.figure(quality) or 0.0


def _cell(one: Retrieved, column: Column) -> tuple[str, object]:
    """(text, sort key)."""
    value = one.figure(column.figure)
    if value is None:
        return "–", ""
    text = FORMATS[column.unit](value)
    return text, value


def _approximate(hashes: Sequence[Retrieved]) -> list[dict[str, object]]:
    """A row for each hash and index: recall, and the median query beside the exact scan's."""
    return [
        {
            "spec": one.name,
            "index": name,
            "recall": figures["recall"],
            "build_s": figures["build_s"],
            "query_ms": figures["query_p50_ms"],
            "exact_ms": one.record["query_p50_ms"],
        }
        for one in hashes
        for name, figures in one.record["approximate"].items()
        if not reason_in(figures)
    ]


def _style(hasher: str) -> tuple[str, str]:
    """(colour class, marker) of a hasher, the same on every page."""
    place = list(HASHER_NUMBERS).index(hasher) - 1  # the first is cosine
    return f"c{place % COLOURS}", SHAPES[place % len(SHAPES)]


def _legend(hashes: Sequence[Retrieved]) -> list[tuple[Markup, str]]:
    used = dict.fromkeys(one.spec.hasher for one in hashes)
    return [(swatch(_style(name)[0], shape=_style(name)[1]), name) for name in used]


def _draw_quality(
    found: Sequence[Retrieved], hashes: Sequence[Retrieved], quality: str, title: str, width: int
) -> Markup:
    references = [one for one in found if one.is_reference] if quality == "map_at_k" else []
    values = [_value(one, quality) for one in (*hashes, *references)]
    low, high = log_span([one.nbits for one in hashes])
    # Room for the names of the longest codes.
    chart = Chart.sized(width, (low, 1.6 * high), share_span(values, margin=0.12), x_log=True)
    ticks = [(float(n), str(n)) for n in (16, 32, 64, 128, 256, 512, 1024, 4096, 25088) if _within(chart, n)]
    chart.axes("bits a code, on a log scale", title, x_format=str, y_format=percent, x_ticks=ticks)
    for one in references:
        chart.level(_value(one, quality), "")
    series: dict[tuple[str, str], list[Retrieved]] = {}
    for one in sorted(hashes, key=lambda one: one.nbits):
        series.setdefault((one.spec.hasher, one.spec.codes.name), []).append(one)
    for (hasher, _), line in series.items():
        if len(line) > 1:
            chart.line([(one.nbits, _value(one, quality)) for one in line], _style(hasher)[0])
    taken = [chart.box(one.nbits, _value(one, quality)) for one in hashes]
    for one in hashes:
        colour, shape = _style(one.spec.hasher)
        words = f"{one.name}: {percent(_value(one, quality))} in {one.nbits:,} bits"
        chart.dot(one.nbits, _value(one, quality), words, colour, shape=shape)
    for one in references:
        chart.label(one.name, chart.x.low, _value(one, quality), taken)
    for line in series.values():
        chart.label(line[-1].spec.hasher, line[-1].nbits, _value(line[-1], quality), taken)
    return chart.render(f"{title} against bits for each hash; the figures are in the table below")


def _within(chart: Chart, value: float) -> bool:
    return chart.x.low <= value <= chart.x.high


def _draw_spread(hashes: Sequence[Retrieved], width: int) -> Markup:
    """For each hash the bits that an image sets, of the median's: 5 to 95 % of the images, and the middle half."""
    spreads = [_spread_of(one) for one in hashes]
    low, high = span([v for values in spreads for v in (values[1], values[5])])
    chart = Chart.sized(width, (-0.6, len(hashes) - 0.4), (low, high), ratio=0.62 if width != WIDE else 0.46, bottom=84)
    chart.axes(
        "",
        "bits set, of those that the median image sets",
        x_format=str,
        y_format=percent_ticks(low, high),
        x_ticks=[(float(i), f"{one.spec.hasher}{one.spec.number or ''}") for i, one in enumerate(hashes)],
        tilt=True,
    )
    for i, (one, values) in enumerate(zip(hashes, spreads, strict=True)):
        colour, shape = _style(one.spec.hasher)
        chart.whisker(i, values[1], values[5], colour)
        chart.band([(i - 0.22, values[2], values[4]), (i + 0.22, values[2], values[4])], colour)
        half = f"{percent(values[2], 0)} to {percent(values[4], 0)}"
        words = f"{one.name}: half of the images set {half} of what the median sets"
        chart.dot(i, values[3], words, colour, shape=shape)
    return chart.render("Bits that an image sets, of the median's, for each hash: the middle half, and 5 to 95 %")


def _spread_of(one: Retrieved) -> list[float]:
    """Quantiles of the bits that an image sets, by their median."""
    quantiles = one.record["popcount"]["quantiles"]
    return [v / max(quantiles[3], 1.0) for v in quantiles]
