"""A flat map of the best codes, with the images in the places of their codes."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.codes.reader import Codes
from pipeline.config import ReportParams
from pipeline.report.inputs import Inputs
from pipeline.report.section import Section, count, csv_text, render
from pipeline.report.svg import element, figure_svg

COLOURED = 10  # classes that frames can tell apart
MOST_PICTURES = 900
CELL, PICTURE = 36, 30  # px
EMPTY = 1.45  # cells for each picture: the gaps keep clusters apart
FEWEST = 4  # points that are worth a map

Floats = NDArray[np.float64]


def build(inputs: Inputs) -> Section | None:
    if not inputs.codes:
        return None
    codes = inputs.codes[inputs.best_spec]
    if min(inputs.params.map_images, len(codes.ids)) < FEWEST:
        return None
    picked = _pick(codes, inputs.params)
    places = embed(codes.rows(picked), inputs.params)
    rows = [inputs.album.row_of[str(image_id)] for image_id in codes.ids[picked]]
    shown = np.unique(np.linspace(0, len(picked) - 1, min(len(picked), MOST_PICTURES)).round().astype(int))
    classes = inputs.manifest.classes
    html = render(
        "map.html",
        spec=inputs.best_spec,
        method={"tsne": "t-SNE", "pca": "the first two principal components"}[inputs.params.map_method],
        points=count(len(picked)),
        pictures=None if len(shown) == len(picked) else count(len(shown)),
        of=count(len(codes.ids)),
        map=_draw(inputs, places[shown], [rows[i] for i in shown]),
        classes=list(enumerate(classes)) if len(classes) <= COLOURED else [],
    )
    table = [
        [inputs.manifest.ids[row], inputs.album.name(row), inputs.album.label(row), *map(float, place)]
        for row, place in zip(rows, places, strict=True)
    ]
    return Section("Map", html, files={"map.csv": csv_text(["id", "path", "label", "x", "y"], table)})


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


def _draw(inputs: Inputs, places: Floats, rows: list[int]) -> Markup:
    album, manifest = inputs.album, inputs.manifest
    cells, columns, lines = snap(places)
    coloured = 0 < len(manifest.classes) <= COLOURED
    targets = manifest.targets
    parts = []
    for (column, line), row in zip(cells.tolist(), rows, strict=True):
        x, y = column * CELL, line * CELL
        words = " · ".join(w for w in (album.label(row), album.name(row)) if w)
        # An unlabelled image among labelled ones has target -1.
        class_ = f"k{targets[row]}" if coloured and targets[row] >= 0 else "plain"
        picture = album.thumbnail(row, 2 * PICTURE)
        inner = {"x": x + 2, "y": y + 2, "width": PICTURE, "height": PICTURE}
        content = [element("title", words), element("rect", class_=f"frame {class_}", rx=4, **_outer(x, y))]
        if picture:
            content.append(element("image", href=picture, **inner))
        parts.append(element("g", *content))
    words = f"Map of {len(rows)} images: those with similar codes lie close to each other"
    return figure_svg(columns * CELL, lines * CELL, words, *parts)


def _outer(x: int, y: int) -> dict[str, int]:
    return {"x": x, "y": y, "width": PICTURE + 4, "height": PICTURE + 4}
