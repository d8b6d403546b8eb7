"""A flat map of the best codes, with each image in a place of its own, near those with codes like its."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.base import csv_files
from pipeline.codes.reader import Codes
from pipeline.config import ReportParams
from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.answers import CodesMap, Placed

MOST_PICTURES = 900
SIDE = 60  # px of a thumbnail
EMPTY = 1.45  # cells for each picture: the gaps keep clusters apart
FEWEST = 4  # points that are worth a map

Floats = NDArray[np.float64]


def compute(inputs: Inputs) -> Computed | None:
    if not inputs.codes:
        return None
    codes, manifest, album = inputs.codes[inputs.best_spec], inputs.manifest, inputs.album
    if min(inputs.params.map_images, len(codes.ids)) < FEWEST:
        return None
    picked = _pick(codes, inputs.params)
    places = embed(codes.rows(picked), inputs.params)
    rows = [album.row_of[str(image_id)] for image_id in codes.ids[picked]]
    shown = np.unique(np.linspace(0, len(picked) - 1, min(len(picked), MOST_PICTURES)).round().astype(int))
    cells, columns, lines = snap(places[shown])
    placed = tuple(
        Placed(column, line, album.picture(row, SIDE), album.label(row), int(manifest.targets[row]))
        for (column, line), row in zip(cells.tolist(), (rows[i] for i in shown), strict=True)
    )
    table = [
        [manifest.ids[row], album.name(row), album.label(row), *map(float, place)]
        for row, place in zip(rows, places, strict=True)
    ]
    return Computed(
        CodesMap(
            spec=inputs.best_spec,
            method=inputs.params.map_method,
            points=len(picked),
            images=len(codes.ids),
            columns=columns,
            rows=lines,
            placed=placed,
        ),
        tables={"map.csv": csv_files.table(["id", "path", "label", "x", "y"], table)},
    )


def _pick(codes: Codes, params: ReportParams) -> NDArray[np.int64]:
    """Rows of the codes, drawn by the seed, rising."""
    generator = np.random.default_rng(params.seed)
    return np.sort(generator.permutation(len(codes.ids))[: params.map_images]).astype(np.int64)


def embed(rows: NDArray[np.floating], params: ReportParams) -> Floats:
    """(n, d) codes -> (n, 2) places, all 0 if the codes are all alike.

    Rows are L2-normalised first; t-SNE works on at most 50 principal components.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    unit = rows.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    if np.ptp(unit, axis=0).max() < 1e-9:
        return np.zeros((len(unit), 2))
    kept = 2 if params.map_method == "pca" else 50
    # One thread: sums of several come out in another order, and a busy machine makes their barriers slow.
    with threadpool_limits(1):
        flat: Floats = PCA(min(kept, *unit.shape), random_state=params.seed).fit_transform(unit)
        if flat.shape[1] < 2:
            flat = np.column_stack([flat, np.zeros(len(flat))])
        if params.map_method == "tsne":
            flat = _tsne(flat, params.seed)
    return flat.astype(np.float64)


def _tsne(points: Floats, seed: int) -> Floats:
    from sklearn.manifold import TSNE

    # 600 steps: 250 of early exaggeration, then enough to settle a few hundred to a few thousand points.
    perplexity = min(30.0, (len(points) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", max_iter=600, random_state=seed, n_jobs=1)
    places: Floats = model.fit_transform(points)
    return places


def snap(places: Floats) -> tuple[NDArray[np.int64], int, int]:
    """(n, 2) places -> (n, 2) cells (column, row), no two alike, and the grid's columns and rows.

    The assignment moves the points the least in all (squared distance).
    """
    from scipy.optimize import linear_sum_assignment

    cells = max(math.ceil(EMPTY * len(places)), 1)
    columns = math.ceil(math.sqrt(1.5 * cells))
    rows = math.ceil(cells / columns)
    reach = np.maximum(np.ptp(places, axis=0), 1e-12)
    scaled = (places - places.min(axis=0)) / reach * (columns - 1, rows - 1)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    distance = ((scaled[:, None, :] - grid[None, :, :]) ** 2).sum(axis=-1)
    _, chosen = linear_sum_assignment(distance)
    return grid[chosen], columns, rows
