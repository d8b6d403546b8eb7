"""The best combination's confusion matrix, and its worst confusions with the images that were confused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.metrics.classify import confusion
from pipeline.report.inputs import Inputs
from pipeline.report.runs import Predictions
from pipeline.report.section import Section, csv_text, percent, render
from pipeline.report.svg import element, figure_svg

MOST_CLASSES = 100  # a matrix of more is cut down to WORST_CLASSES
WORST_CLASSES = 40
WORST_PAIRS, PICTURES, SIDE = 9, 5, 72
NUMBERED = 26  # px: a smaller cell has no room for its number


@dataclass(frozen=True)
class Pair:
    true: str
    predicted: str
    times: int
    share: float  # of the true class's answers
    pictures: list[tuple[str, str]]  # (data URI, words)


def worst_pairs(matrix: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """The (true, predicted) cells off the diagonal with the most images, then by class order."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    cells = [(int(i) // len(off), int(i) % len(off)) for i in order]
    return [(t, p) for t, p in cells if off[t, p] > 0]


def build(inputs: Inputs) -> Section | None:
    board = inputs.comparison
    if board is None:
        return None
    answers = [board.best.predictions(r["repeat"]) for r in board.best.repeats]
    classes = inputs.manifest.classes
    true = np.concatenate([a.true for a in answers])
    predicted = np.concatenate([a.predicted for a in answers])
    matrix = confusion(true, predicted, len(classes))
    shown = _shown(matrix)
    pairs = [_pair(inputs, answers, matrix, t, p) for t, p in worst_pairs(matrix, WORST_PAIRS)]
    html = render(
        "confusion.html",
        best=board.best,
        matrix=_draw(matrix[np.ix_(shown, shown)], matrix.sum(axis=1)[shown], [classes[i] for i in shown]),
        cut=len(shown) if len(shown) < len(classes) else None,
        classes=len(classes),
        repeats=len(answers),
        answers=len(true),
        pairs=pairs,
        side=SIDE,
    )
    totals = matrix.sum(axis=1)
    rows = [
        [classes[t], classes[p], int(matrix[t, p]), matrix[t, p] / totals[t]]
        for t, p in worst_pairs(matrix, matrix.size)
    ]
    named = np.array(classes, dtype=object)
    files = {
        "confusions.csv": csv_text(["true", "predicted", "times", "share_of_true"], rows),
        "plots/confusion.csv": csv_text(["actual", "predicted"], zip(named[true], named[predicted], strict=True)),
    }
    return Section("Confusions", html, files=files)


def _shown(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes that the matrix draws: all, or those with the most errors made of or for them, in order."""
    k = len(matrix)
    if k <= MOST_CLASSES:
        return np.arange(k)
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    return np.sort(np.argsort(-errors, kind="stable")[:WORST_CLASSES])


def _pair(inputs: Inputs, answers: list[Predictions], matrix: NDArray[np.int64], true: int, predicted: int) -> Pair:
    """With the images that were confused, each once, the surest errors of the earliest split first."""
    album = inputs.album
    seen: dict[str, None] = {}
    for answer in answers:
        found = np.flatnonzero((answer.true == true) & (answer.predicted == predicted))
        sure = np.argsort(-(answer.scores[found, predicted] - answer.scores[found, true]), kind="stable")
        seen |= {str(image_id): None for image_id in answer.ids[found[sure]] if str(image_id) not in seen}
    rows = [album.row_of[image_id] for image_id in list(seen)[:PICTURES]]
    classes = inputs.manifest.classes
    return Pair(
        true=classes[true],
        predicted=classes[predicted],
        times=int(matrix[true, predicted]),
        share=float(matrix[true, predicted] / matrix[true].sum()),
        pictures=[(album.thumbnail(row, SIDE), album.name(row)) for row in rows],
    )


def _draw(matrix: NDArray[np.int64], totals: NDArray[np.int64], names: list[str]) -> Markup:
    """Cells shaded by their share of the row: `totals` counts every answer of a class, also of columns left out."""
    k = len(names)
    cell = 46 if k <= 12 else 28 if k <= 30 else 14 if k <= 60 else 11
    longest = max(len(_short(n)) for n in names)
    font = 12.5 if cell >= NUMBERED else min(cell, 12) - 1.0
    left, top = 18 + longest * font * 0.56, 12 + longest * font * 0.42
    parts: list[Markup] = []
    for i, name in enumerate(names):
        y, x = top + (i + 0.5) * cell, left + (i + 0.5) * cell
        parts.append(_label(name, left - 6, y + font / 3, font, None))
        parts.append(_label(name, x, top - 7, font, f"rotate(-45 {x:.1f} {top - 7:.1f})"))
    parts.append(element("rect", class_="frame", x=left, y=top, width=k * cell, height=k * cell))
    for t, p in zip(*np.nonzero(matrix), strict=True):
        share = float(matrix[t, p] / totals[t])
        words = f"{names[t]} called {names[p]}: {matrix[t, p]} of {totals[t]} ({percent(share)})"
        parts.append(_cell(left + p * cell, top + t * cell, cell, share, words, right=bool(t == p)))
    # The slanted labels of the last columns reach beyond the matrix.
    return figure_svg(left + k * cell + longest * font * 0.42, top + k * cell + 4, "Confusion matrix", *parts)


def _cell(x: float, y: float, side: int, share: float, words: str, *, right: bool) -> Markup:
    # A square root lets rare confusions show beside a diagonal near 1.
    shade = f"{max(share, 0.004) ** 0.5:.2f}"
    class_ = "right" if right else "wrong"
    square: dict[str, Any] = {"x": x + 0.5, "y": y + 0.5, "width": side - 1, "height": side - 1}
    parts = [element("title", words), element("rect", class_=class_, fill_opacity=shade, **square)]
    if side >= NUMBERED and share >= 0.005:
        tone = "on-dark" if float(shade) > 0.62 else "on-light"
        text = f"{100 * share:.0f}"
        parts.append(element("text", text, x=x + side / 2, y=y + side / 2 + 4, class_=f"cell mid {tone}"))
    return element("g", *parts)


def _label(name: str, x: float, y: float, font: float, turn: str | None) -> Markup:
    end = " end" if turn is None else ""
    content = (element("title", name), _short(name)) if _short(name) != name else (name,)
    return element("text", *content, x=x, y=y, class_=f"tick{end}", style=f"font-size:{font:.1f}px", transform=turn)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "\N{HORIZONTAL ELLIPSIS}"
