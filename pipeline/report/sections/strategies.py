"""Every way to transfer in one table: how well, for what training, and what the source's weights were worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.base import csv_files
from pipeline.figures.records.about import About
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS
from pipeline.figures.records.strategies import Baseline, Finetuned, Recall
from pipeline.report.notes import sentences
from pipeline.report.section import (
    MINUS,
    NONE,
    Section,
    and_list,
    count,
    render,
    seconds,
    size,
    spread,
)
from pipeline.report.sections import class_recall, strategy_curves

GAINS = ("start", "slope", "asymptote")


@dataclass(frozen=True)
class Row:
    """A strategy, or a head on codes. `time`: the figure that says how long training took."""

    name: str
    kind: str
    trained: str
    trained_values: int
    n_train: int
    of: Finetuned | Baseline
    time: str

    @classmethod
    def of_strategy(cls, one: Finetuned) -> Row:
        record = one.record
        n_train = one.repeats[0]["n_train"]
        return cls(one.name, one.kind, record["trained"], record["trained_values"], n_train, one, "train_s")

    @classmethod
    def of_head(cls, one: Baseline, classes: int) -> Row:
        first = one.repeats[0]
        values, n_train = (one.run.dim + 1) * classes, first["n_train"] + first["n_val"]
        return cls(one.name, "head on codes", "the head at its best C", values, n_train, one, "fit_s")

    def mean(self, figure: str) -> float:
        return self.of.mean(figure)


@dataclass(frozen=True)
class Figure:
    """A column of numbers: where it comes from, and how it is shown."""

    title: str
    value: Callable[[Row], float]
    text: Callable[[Row], str]
    tip: str = ""


def _share(figure: str) -> Callable[[Row], str]:
    return lambda row: spread(row.mean(figure), row.of.std(figure))


FIGURES: dict[str, Figure] = {
    "trained_values": Figure("values trained", lambda r: r.trained_values, lambda r: count(r.trained_values)),
    "n_train": Figure("images", lambda r: r.n_train, lambda r: count(r.n_train), "to learn from, in each split"),
    "epochs": Figure("epochs", lambda r: r.mean("epochs"), lambda r: f"{r.mean('epochs'):.3g}"),
    "accuracy": Figure("accuracy", lambda r: r.mean("accuracy"), _share("accuracy")),
    "mean_class_recall": Figure(
        "mean class recall", lambda r: r.mean("mean_class_recall"), _share("mean_class_recall")
    ),
    "train_s": Figure("training", lambda r: r.mean(r.time), lambda r: seconds(r.mean(r.time)), "of one split"),
    "peak_memory_bytes": Figure(
        "peak memory",
        lambda r: r.mean("peak_memory_bytes"),
        lambda r: size(r.mean("peak_memory_bytes")),
        "of the GPU, or of the whole process",
    ),
}


def build(figures: Figures) -> Section | None:
    if figures.strategies is None:
        return None
    found, heads, recall = figures.strategies.tuned, figures.strategies.heads, figures.strategies.recall
    metric = figures.about.selection
    ranked = sorted(found, key=lambda one: -one.mean(metric))
    scratch, gained = figures.strategies.scratch, figures.strategies.gains
    majority = float(found[0].record["majority"]["accuracy"])
    rows = [Row.of_strategy(one) for one in ranked]
    rows += [Row.of_head(one, len(figures.about.classes)) for one in heads]
    rows.sort(key=lambda row: -row.mean(metric))
    html = render(
        "strategies.html",
        best=ranked[0],
        best_value=_value(ranked[0], metric),
        scratch=scratch,
        scratch_value=_value(scratch, metric) if scratch else "",
        heads=[(one.name, _value(one, metric)) for one in heads],
        metric=METRICS[metric].title,
        majority=majority,
        protocol=_protocol(found, heads, figures.about),
        repeats=len(found[0].repeats),
        uneven=[f"{one.name} over {len(one.repeats)}" for one in found if len(one.repeats) != len(found[0].repeats)],
        titles=[(figure.title, figure.tip) for figure in FIGURES.values()],
        rows=[_cells(row) for row in rows],
        recall=class_recall.show(recall, ranked[0].name, len(found[0].repeats)),
        gains=[(name, [(_points(values[key]), values[key]) for key in GAINS]) for name, values in gained.items()],
        validation=strategy_curves.validation(found, majority),
        depth=strategy_curves.depth(found, figures.strategies.convolutions, metric),
        trained=[
            (one.name, one.repeats[0]["reading"], plots)
            for one in ranked
            if (plots := strategy_curves.of_strategy(one))
        ],
    )
    bars = [[row.name, row.mean("accuracy"), row.of.std("accuracy")] for row in rows]
    files = {
        "strategies.csv": _table(rows, gained, recall),
        "class_recall.csv": class_recall.csv_of(recall, {row.name: len(row.of.repeats) for row in rows}),
        "plots/strategies.csv": csv_files.table(["strategy", "accuracy", "std"], bars),
    }
    return Section("Strategies", html, files=files)


def _value(one: Finetuned | Baseline, metric: str) -> str:
    return spread(one.mean(metric), one.std(metric)) + "\N{NARROW NO-BREAK SPACE}%"


def _points(value: float) -> str:
    """A gain in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def _protocol(found: Sequence[Finetuned], heads: Sequence[Baseline], about: About) -> str:
    """Who learned from what; where heads on codes had more to learn from, it says so."""
    first, px = found[0].repeats[0], found[0].size
    text = (
        f"In each split the strategies learned from {count(first['n_train'])} training images at {px} px, kept the "
        f"weights of their best epoch on {count(first['n_val'])} validation images, and met the "
        f"{count(first['n_test'])} test images once."
    )
    if heads:
        own = heads[0].repeats[0]
        text += (
            f" {and_list([one.name for one in heads])} had the same test images but another protocol: "
            f"{count(own['n_train'] + own['n_val'])} images of train and val to learn from, and codes at "
            f"{about.codes_of(heads[0].run.spec.name).side} px. Their layer was chosen on val, and so was C."
        )
        text = " ".join([text, *sentences((one.name, one.repeats) for one in heads)])
    return text


def _cells(row: Row) -> list[tuple[str, object]]:
    """(text, sort key) of each cell; figures that a row lacks are a dash."""
    cells: list[tuple[str, object]] = [(text, text) for text in (row.name, row.kind, row.trained)]
    for figure in FIGURES.values():
        value = figure.value(row)
        cells.append((NONE, "") if math.isnan(value) else (figure.text(row), value))
    return cells


def _table(rows: Sequence[Row], gained: Mapping[str, Mapping[str, float]], recall: Recall) -> str:
    more = ("top5", "macro_f1", "log_loss", "predict_s")
    header = ["strategy", "kind", "trained", "repeats", *FIGURES, "accuracy_std", "mean_class_recall_std"]
    header += ["lowest_recall_class", "lowest_class_recall", *more]
    lines = [
        [
            *(row.name, row.kind, row.trained, len(row.of.repeats)),
            *(figure.value(row) for figure in FIGURES.values()),
            *(row.of.std(name) for name in ("accuracy", "mean_class_recall")),
            *recall.lowest(row.name),
            *(row.mean(name) for name in more),
            *(gained.get(row.name, {}).get(key) for key in GAINS),
        ]
        for row in rows
    ]
    return csv_files.table([*header, *(f"{key}_gain" for key in GAINS)], lines)
