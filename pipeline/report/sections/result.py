"""The answer in a sentence, and the images that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.figures.records.about import About
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import METRICS, Comparison
from pipeline.figures.records.strategies import Finetuned
from pipeline.report.notes import sentences, shortened
from pipeline.report.section import Section, count, number, percent, render, size, spread

CLAIMS = {
    "accuracy": "is right on {} of the test images",
    "mean_class_recall": "finds {} of a class's test images, averaged over classes",
    "macro_f1": "reaches a macro F1 of {} on the test images",
}


def build(figures: Figures) -> Section:
    board = figures.comparison
    about = figures.about
    samples = [(figures.uri(picture.thumbnail), picture.name) for picture in about.samples]
    values = {"images": about.images, "samples": samples, "failed": about.lost}
    if board is None and figures.strategies is not None:
        return _of_strategies(about, figures.strategies.tuned, values)
    if board is None:
        codes = about.codes_of(about.best_spec)
        tiles = [
            ("images", count(about.images), "without labels"),
            ("kinds of codes", count(len(about.codes)), f"of {about.arch}"),
            ("deepest codes", about.best_spec, f"{count(codes.dim)} values each"),
        ]
        html = render("result.html", board=None, best=None, tiles=tiles, **values)
        return Section("Result", html)
    best = board.best
    metric = board.metric
    baseline_metric = metric if metric in best.majority else "accuracy"
    baseline = best.majority[baseline_metric]
    lead = best.mean(baseline_metric) - baseline
    tiles = [
        (METRICS[metric].title, _with_spread(board), _over(board)),
        ("over the largest class", f"+{100 * lead:.1f} points", f"which scores {percent(baseline)}"),
        ("code", size(best.bytes_per_code), f"{count(best.dim)} values of {best.spec.layer}"),
        ("images", count(about.images), f"{len(about.classes)} classes"),
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
    return Section("Result", html)


def _of_strategies(about: About, tuned: Sequence[Finetuned], values: dict[str, Any]) -> Section:
    """Where strategies were trained and no heads on codes."""
    metric = about.selection
    best = max(tuned, key=lambda one: one.mean(metric))
    majority = float(best.record["majority"]["accuracy"])
    found, repeats = spread(best.mean(metric), best.std(metric)), len(best.repeats)
    tiles = [
        (
            METRICS[metric].title,
            f"{found}\N{NARROW NO-BREAK SPACE}%",
            "one split" if repeats == 1 else f"{repeats} splits",
        ),
        ("largest class", percent(majority), "accuracy of always naming it"),
        ("images", count(about.images), f"{len(about.classes)} classes"),
    ]
    html = render("result.html", board=None, best=best, several=len(tuned) > 1, tiles=tiles, **values)
    return Section("Result", html)


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
    return _tied(others, [run.name for run in tied])


def _tied(others: int, names: Sequence[str]) -> str:
    """`names`: those of the `others` that are within noise of the winner."""
    if others == 1:
        return (
            f"The other one, {names[0]}, is within noise of it."
            if names
            else "The other one is not within noise of it."
        )
    if not names:
        return f"None of the other {others} is within noise of it."
    if len(names) == others:
        return f"All {others} others are within noise of it: {shortened(names)}."
    if len(names) == 1:
        return f"Among the other {others}, one is within noise of it: {names[0]}."
    return f"Among the other {others}, {len(names)} are within noise of it: {shortened(names)}."
