"""The best combination's confusion matrix, and its worst confusions with the images that were confused."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.figures.records.files import Figures
from pipeline.report.section import Section, percent, render
from pipeline.report.svg import element, figure_svg

SIDE = 72  # px of a picture
NUMBERED = 26  # px: a smaller cell has no room for its number


def build(figures: Figures) -> Section | None:
    board, found = figures.comparison, figures.confusion
    if board is None or found is None:
        return None
    classes, drawn = len(figures.about.classes), len(found.names)
    html = render(
        "confusion.html",
        best=board.best,
        matrix=_draw(np.array(found.matrix), np.array(found.totals), list(found.names)),
        cut=drawn if drawn < classes else None,
        classes=classes,
        repeats=found.repeats,
        answers=found.answers,
        pairs=[
            (pair, [(figures.uri(picture.thumbnail), picture.name) for picture in pair.pictures])
            for pair in found.pairs
        ],
        side=SIDE,
    )
    return Section("Confusions", html)


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
