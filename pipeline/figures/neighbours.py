"""Queries and what some methods find for them, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.figures.inputs import Inputs
from pipeline.figures.records.retrieval import Answer, Neighbour, Query, Retrieval, Retrieved
from pipeline.hashing.save import read_bits
from pipeline.retrieval.sets import QuerySets, sets_of
from pipeline.search import make
from pipeline.search.cosine import Cosine

QUERIES, NEIGHBOURS, SIDE = 5, 12, 96


def methods(results: Retrieval) -> list[tuple[str, Retrieved]]:
    """(what it is, method) whose neighbours are shown: the reference, the best hash and the classical or worst one."""
    best = results.best
    reference = results.reference_of(best)
    raw = next((one for one in results.hashes if one.spec.hasher == "sigmoid"), None)
    last = raw or min(results.hashes, key=results.value)
    chosen = [("exact cosine", reference)] if reference else []
    chosen += [("the best hash", best)]
    if last is not best:
        chosen += [("the classical bits" if last is raw else "the weakest hash", last)]
    return [(words, one) for words, one in chosen if one is not None]


def shown(inputs: Inputs, methods: Sequence[tuple[str, Retrieved]]) -> tuple[Query, ...]:
    """Queries spread over the classes, the same on every page of the same images; neighbours by (distance, id)."""
    manifest, album = inputs.manifest, inputs.album
    sets = {
        one.spec.codes.name: sets_of(inputs.codes[one.spec.codes.name], manifest, max_queries=len(manifest), seed=0)
        for _, one in methods
    }
    codes = inputs.codes[methods[0][1].spec.codes.name]
    queries = codes.ids[_spread(sets[methods[0][1].spec.codes.name])]
    answers = [_answers(inputs, sets[one.spec.codes.name], one, queries) for _, one in methods]
    result = []
    for i, query in enumerate(queries):
        row = album.row_of[str(query)]
        found = []
        for (words, one), (distances, ids) in zip(methods, answers, strict=True):
            # One more was asked for, since a query may be in the database.
            near = [(at, d) for at, d in zip(ids[i], distances[i], strict=True) if at != query][:NEIGHBOURS]
            neighbours = tuple(_neighbour(inputs, str(at), row, d) for at, d in near)
            found.append(Answer(words, one.name, one.is_reference, neighbours))
        result.append(Query(album.picture(row, SIDE), album.label(row), tuple(found)))
    return tuple(result)


def _spread(sets: QuerySets) -> NDArray[np.int64]:
    """QUERIES of the queries, evenly along their classes."""
    rows = sets.queries
    if sets.targets is not None:
        rows = rows[np.argsort(sets.targets[rows], kind="stable")]
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).round().astype(np.int64))]


def _answers(
    inputs: Inputs, sets: QuerySets, one: Retrieved, queries: NDArray[np.str_]
) -> tuple[list[list[float]], NDArray[np.str_]]:
    """The distances (1 - cosine, or bits) and the ids of the nearest database images, (q, k) both."""
    codes = inputs.codes[one.spec.codes.name]
    k, ids = min(NEIGHBOURS + 1, len(sets.database)), codes.ids[sets.database]
    if one.is_reference:
        distances, near = Cosine(codes.rows(sets.database), ids).search(codes.by_id(queries), k)
        return distances.astype(np.float64).tolist(), near
    bits = read_bits(inputs.root / "retrieval" / one.name / "bits.h5")
    index = make("exact", bits.nbits)
    index.add(bits.packed[sets.database], ids)
    apart, near = index.search(bits.packed[codes.positions(queries)], k)
    return apart.astype(np.float64).tolist(), near


def _neighbour(inputs: Inputs, image_id: str, query: int, distance: float) -> Neighbour:
    album = inputs.album
    row = album.row_of[image_id]
    label, wanted = album.label(row), album.label(query)
    hit: Literal["", "hit", "miss"] = "" if not wanted else "hit" if label == wanted else "miss"
    return Neighbour(album.picture(row, SIDE), label, distance, hit)
