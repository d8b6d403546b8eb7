"""The answer in a sentence, and the images that it is about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.report.compare import Comparison
from pipeline.report.inputs import Inputs
from pipeline.report.notes import sentences, shortened
from pipeline.report.runs import METRICS
from pipeline.report.section import Section, count, number, percent, render, size, spread

SAMPLES, SAMPLE_SIDE = 14, 88

CLAIMS = {
    "accuracy": "is right on {} of the test images",
    "mean_class_recall": "finds {} of a class's test images, averaged over classes",
    "macro_f1": "reaches a macro F1 of {} on the test images",
}


def build(inputs: Inputs) -> Section:
    board = inputs.comparison
    values = {"inputs": inputs, "samples": _samples(inputs), "failed": len(inputs.lost)}
    if board is None and inputs.tuned:
        return _of_strategies(inputs, values)
    if board is None:
        codes = inputs.codes[inputs.best_spec]
        tiles = [
            ("images", count(len(inputs.manifest)), "without labels"),
            ("kinds of codes", count(len(inputs.specs)), f"of {inputs.arch}"),
            ("deepest codes", inputs.best_spec, f"{count(codes.dim)} values each"),
        ]
        html = render("result.html", board=None, best=None, tiles=tiles, **values)
        return Section("Result", html, metrics={"images": len(inputs.manifest), "classes": 0})
    best = board.best
    metric = board.metric
    baseline_metric = metric if metric in best.majority else "accuracy"
    baseline = best.majority[baseline_metric]
    lead = best.mean(baseline_metric) - baseline
    tiles = [
        (METRICS[metric].title, _with_spread(board), _over(board)),
        ("over the largest class", f"+{100 * lead:.1f} points", f"which scores {percent(baseline)}"),
        ("code", size(best.bytes_per_code), f"{count(best.dim)} values of {best.spec.layer}"),
        ("images", count(len(inputs.manifest)), f"{len(inputs.manifest.classes)} classes"),
    ]
    html = render(
        "result.html",
        board=board,
        claim=CLAIMS[metric].format(_with_spread(board)),
        lead=number(100 * lead, 1),
        baseline=percent(baseline),
        baseline_metric=METRICS[baseline_metric].title,
        noise=_noise(board),
        over=_over(board),
        tiles=tiles,
        notes=sentences([(best.name, best.repeats)]),
        **values,
    )
    return Section("Result", html, metrics=_metrics(inputs, board))


def _of_strategies(inputs: Inputs, values: dict[str, Any]) -> Section:
    """Where strategies were trained and no heads on codes."""
    metric = inputs.params.selection
    best = max(inputs.tuned, key=lambda one: one.mean(metric))
    majority = float(best.record["majority"]["accuracy"])
    found, repeats = spread(best.mean(metric), best.std(metric)), len(best.repeats)
    tiles = [
        (
            METRICS[metric].title,
            f"{found}\N{NARROW NO-BREAK SPACE}%",
            "one split" if repeats == 1 else f"{repeats} splits",
        ),
        ("largest class", percent(majority), "accuracy of always naming it"),
        ("images", count(len(inputs.manifest)), f"{len(inputs.manifest.classes)} classes"),
    ]
    html = render("result.html", board=None, best=best, tiles=tiles, **values)
    facts = {"images": len(inputs.manifest), "classes": len(inputs.manifest.classes), "failed_images": len(inputs.lost)}
    return Section("Result", html, metrics=facts)


def _with_spread(board: Comparison) -> str:
    return spread(board.best.mean(board.metric), board.best.std(board.metric)) + "\N{NARROW NO-BREAK SPACE}%"


def _over(board: Comparison) -> str:
    return _splits(len(board.best.repeats))


def _splits(repeats: int) -> str:
    return "one split" if repeats == 1 else f"mean ± sd of {repeats} splits"


def _noise(board: Comparison) -> str:
    """Which others can't be told from the winner, as a sentence."""
    others, tied = len(board.runs) - 1, board.within_noise
    if not others:
        return "No other combination was tried."
    if board.test == "none":
        return "Whether the others differ from it by more than noise, fewer than five splits can't tell."
    if not tied:
        return f"None of the other {others} is within noise of it."
    names = [run.name for run in tied]
    if len(tied) == 1:
        return f"Of the other {others}, one is within noise of it: {names[0]}."
    return f"Of the other {others}, {len(tied)} are within noise of it: {shortened(names)}."


def _metrics(inputs: Inputs, board: Comparison) -> dict[str, object]:
    best = board.best
    figures = {
        name: {"mean": round(best.mean(name), 6), "std": None if math.isnan(std := best.std(name)) else round(std, 6)}
        for name in METRICS
        if not math.isnan(best.mean(name))
    }
    return {
        "best": {"spec": best.spec.name, "head": best.head, "dim": best.dim, **figures},
        "majority": {name: round(float(value), 6) for name, value in best.majority.items()},
        "within_noise": len(board.within_noise),
        "combinations": len(board.runs),
        "images": len(inputs.manifest),
        "classes": len(inputs.manifest.classes),
        "failed_images": len(inputs.lost),
    }


def _samples(inputs: Inputs) -> list[tuple[str, str]]:
    """(picture, words) of images spread over the classes, or over the set if there are none."""
    manifest, album = inputs.manifest, inputs.album
    targets = manifest.targets
    order = np.lexsort((np.arange(len(targets)), targets))
    picked = np.unique(np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).round().astype(int))
    rows = [int(order[i]) for i in picked]
    shown = [(album.thumbnail(row, SAMPLE_SIDE), album.label(row) or album.name(row)) for row in rows]
    return [(picture, words) for picture, words in shown if picture]
