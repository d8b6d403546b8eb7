"""Queries and what some methods find for them, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.codes.reader import Codes
from pipeline.hashing.save import read_bits
from pipeline.index import make
from pipeline.index.cosine import Cosine
from pipeline.report.inputs import Inputs
from pipeline.report.retrieved import Retrieved
from pipeline.report.section import number
from pipeline.retrieval.sets import Sets, sets_of

QUERIES, NEIGHBOURS, SIDE = 5, 12, 96


@dataclass(frozen=True)
class Picture:
    """`hit` is "" without labels, else "hit" or "miss"."""

    picture: str
    words: str
    hit: str = ""


@dataclass(frozen=True)
class Query:
    """A query and, for each method, its words, its name and its neighbours, the nearest first."""

    query: Picture
    label: str
    found: Sequence[tuple[str, str, Sequence[Picture]]]


def shown(inputs: Inputs, methods: Sequence[tuple[str, Retrieved]]) -> list[Query]:
    """Queries spread over the classes, the same on every page of the same images; neighbours by (distance, id)."""
    manifest, album = inputs.manifest, inputs.album
    sets = {
        one.spec.codes.name: sets_of(inputs.codes[one.spec.codes.name], manifest, max_queries=len(manifest), seed=0)
        for _, one in methods
    }
    codes = inputs.codes[methods[0][1].spec.codes.name]
    queries = codes.ids[_spread(sets[methods[0][1].spec.codes.name])]
    answers = [
        _answers(inputs.codes[one.spec.codes.name], sets[one.spec.codes.name], one, queries) for _, one in methods
    ]
    result = []
    for i, query in enumerate(queries):
        row = album.row_of[str(query)]
        found = []
        for (words, one), (texts, ids) in zip(methods, answers, strict=True):
            near = [_picture(inputs, str(at), row, text) for at, text in zip(ids[i], texts[i], strict=True)]
            # One more was asked for, since a query may be in the database.
            found.append((words, one.name, [p for p, at in zip(near, ids[i], strict=True) if at != query][:NEIGHBOURS]))
        own = Picture(album.thumbnail(row, SIDE), album.name(row))
        result.append(Query(own, album.label(row), found))
    return result


def _spread(sets: Sets) -> NDArray[np.int64]:
    """QUERIES of the queries, evenly along their classes."""
    rows = sets.queries
    if sets.targets is not None:
        rows = rows[np.argsort(sets.targets[rows], kind="stable")]
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).round().astype(np.int64))]


def _answers(
    codes: Codes, sets: Sets, one: Retrieved, queries: NDArray[np.str_]
) -> tuple[list[list[str]], NDArray[np.str_]]:
    """The distances in words and the ids of the nearest database images, (q, k) both."""
    k, ids = min(NEIGHBOURS + 1, len(sets.database)), codes.ids[sets.database]
    if one.is_reference:
        distances, near = Cosine(codes.rows(sets.database), ids).search(codes.by_id(queries), k)
        return [[f"cosine {number(1 - float(d), 3)}" for d in row] for row in distances], near
    bits = read_bits(one.folder / "bits.h5")
    index = make("exact", bits.nbits)
    index.add(bits.packed[sets.database], ids)
    apart, near = index.search(bits.packed[codes.positions(queries)], k)
    return [[f"{int(d):,} bits apart" for d in row] for row in apart], near


def _picture(inputs: Inputs, image_id: str, query: int, distance: str) -> Picture:
    album = inputs.album
    row = album.row_of[image_id]
    label, wanted = album.label(row), album.label(query)
    words = " · ".join(w for w in (label, album.name(row), distance) if w)
    hit = "" if not wanted else "hit" if label == wanted else "miss"
    return Picture(album.thumbnail(row, SIDE), words, hit)
