"""A flat map of the best codes, with the images in the places of their codes."""

from __future__ import annotations

from markupsafe import Markup

from pipeline.figures.records.answers import CodesMap
from pipeline.figures.records.files import Figures
from pipeline.report.section import Section, count, render
from pipeline.report.svg import element, figure_svg

COLOURED = 10  # classes that frames can tell apart
CELL, PICTURE = 36, 30  # px
METHODS = {"tsne": "t-SNE", "pca": "the first two principal components"}


def build(figures: Figures) -> Section | None:
    found = figures.map
    if found is None:
        return None
    classes, drawn = figures.about.classes, len(found.placed)
    html = render(
        "map.html",
        spec=found.spec,
        method=METHODS[found.method],
        points=count(found.points),
        pictures=None if drawn == found.points else count(drawn),
        of=count(found.images),
        map=_draw(figures, found),
        classes=list(enumerate(classes)) if len(classes) <= COLOURED else [],
    )
    return Section("Map", html)


def _draw(figures: Figures, found: CodesMap) -> Markup:
    coloured = 0 < len(figures.about.classes) <= COLOURED
    parts = []
    for one in found.placed:
        x, y = one.column * CELL, one.row * CELL
        words = " · ".join(w for w in (one.label, one.picture.name) if w)
        # An unlabelled image among labelled ones has target -1.
        class_ = f"k{one.target}" if coloured and one.target >= 0 else "plain"
        picture = figures.uri(one.picture.thumbnail)
        inner = {"x": x + 2, "y": y + 2, "width": PICTURE, "height": PICTURE}
        content = [element("title", words), element("rect", class_=f"frame {class_}", rx=4, **_outer(x, y))]
        if picture:
            content.append(element("image", href=picture, **inner))
        parts.append(element("g", *content))
    words = f"Map of {len(found.placed)} images: those with similar codes lie close to each other"
    return figure_svg(found.columns * CELL, found.rows * CELL, words, *parts)


def _outer(x: int, y: int) -> dict[str, int]:
    return {"x": x, "y": y, "width": PICTURE + 4, "height": PICTURE + 4}
