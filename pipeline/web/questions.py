"""Answers of a generation to the questions of the API: what threads work out, apart from how it is asked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.base.errors import UserError
from pipeline.collection import Collection
from pipeline.web import answers
from pipeline.web.live import Generation
from pipeline.web.problems import Problem
from pipeline.web.uploads import Upload

# How much of near-identical images one answer lists.
_LISTED_GROUPS, _LISTED_IN_GROUP = 100, 24


@dataclass(frozen=True)
class Wanted:
    """How a search is to be made."""

    k: int | None
    radius: float | None
    method: str | None
    layer: str | None
    label: str | None
    split: str | None
    exact: bool = False


def page_of(generation: Generation, page: int, size: int, label: str | None, split: str | None) -> answers.PageAnswer:
    collection, rows = generation.collection, generation.order
    if label is not None or split is not None:
        rows = rows[np.isin(rows, collection.select(label, split))]
    pages = max(1, -(-len(rows) // size))
    if page > pages:
        raise Problem(404, f"unknown page {page}; the last one is {pages}")
    shown = rows[(page - 1) * size : page * size]
    listed = [answers.image(collection, row) for row in shown.tolist()]
    return answers.PageAnswer(page=page, pages=pages, total=len(rows), images=listed)


def options(collection: Collection, wanted: Wanted, most: int) -> dict[str, Any]:
    """The keywords of a search, whose answers are at most `most`. Raises UserError for all that is not allowed."""
    if wanted.k is not None and not 1 <= wanted.k <= most:
        raise UserError(f"k = {wanted.k}", allowed=f"1 to {most}")
    collection.select(wanted.label, wanted.split)
    keywords: dict[str, Any] = {**vars(wanted)}
    if wanted.radius is not None:
        keywords["k"] = wanted.k or most
    return keywords


def search(collection: Collection, query: int | Upload, wanted: Wanted, most: int) -> answers.SearchAnswer:
    started_s = time.perf_counter()
    keywords = options(collection, wanted, most)
    if isinstance(query, int):
        found = collection.search_id(str(collection.ids[query]), **keywords)
        about = answers.image(collection, query)
        shown = answers.QueryAnswer(
            id=about.id, uploaded=False, name=about.name, label=about.label, width=None, height=None
        )
    else:
        found = collection.search(query.look, **keywords)
        shown = answers.QueryAnswer(
            id=query.id,
            uploaded=True,
            name="your image",
            label="",
            width=query.width,
            height=query.height,
            reduced=query.reduced,
        )
    search_ms = 1000 * (time.perf_counter() - started_s)
    return answers.SearchAnswer(
        query=shown,
        method=found.method.name,
        layer=found.method.spec,
        index=found.index,
        unit=found.method.unit,
        images=len(collection),
        neighbours=answers.neighbours(collection, found),
        nearest=None if found.nearest is None else found.method.format(found.nearest),
        network_ms=None,
        search_ms=search_ms,
    )


def plane(generation: Generation, layer: str | None, most: int) -> answers.MapAnswer:
    collection = generation.collection
    layers = collection.made_by["layers"]
    if layer is not None and layer not in layers:
        raise Problem(422, f"a map of layer {layer[:60]!r}; allowed: {', '.join(layers)}")
    made = generation.map(layer or layers[0], most)
    points = [
        answers.PointAnswer(**answers.image(collection, row).model_dump(), x=x, y=y)
        for row, (x, y) in zip(made.rows.tolist(), made.points.round(4).tolist(), strict=True)
    ]
    return answers.MapAnswer(layer=layer or layers[0], images=len(collection), explained=made.explained, points=points)


def groups(generation: Generation, method: str | None, radius: int | None) -> answers.DuplicatesAnswer:
    collection = generation.collection
    found, used = generation.groups(method, radius)
    default = next(m for m in collection.methods.values() if m.kind == "hamming")
    return answers.DuplicatesAnswer(
        method=method or default.name,
        radius=used,
        groups=len(found),
        images=sum(map(len, found)),
        listed=[
            [answers.image(collection, row) for row in group[:_LISTED_IN_GROUP]] for group in found[:_LISTED_GROUPS]
        ],
        sizes=[len(group) for group in found[:_LISTED_GROUPS]],
    )
