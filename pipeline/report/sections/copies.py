"""A warning where copies of one picture stand on two sides of a split, and the pairs."""

from __future__ import annotations

import logging

from pipeline.report.copies import MOST_IMAGES, MOST_PAIRS, find
from pipeline.report.inputs import Inputs
from pipeline.report.section import Section, csv_text, render

log = logging.getLogger(__name__)

PAIRS, SIDE = 12, 96


def build(inputs: Inputs) -> Section | None:
    found = find(inputs)
    if not found:
        return None
    manifest, album = inputs.manifest, inputs.album
    log.warning("%d pairs of pictures that may be copies are parted by a split: the page lists them", len(found))
    table = []
    for pair in found:
        rows = (pair.first, pair.second)
        sides = [str(manifest.splits[pair.repeat, row]) for row in rows]
        sizes = [f"{manifest.widths[row]} x {manifest.heights[row]}" for row in rows]
        table.append([*map(album.name, rows), *sizes, *sides, pair.parted])
    shown = [
        ([(album.thumbnail(row, SIDE), album.name(row)) for row in (pair.first, pair.second)], line)
        for pair, line in zip(found[:PAIRS], table, strict=False)
    ]
    html = render(
        "copies.html",
        pairs=shown,
        found=len(found),
        left=len(found) - len(shown),
        most=MOST_PAIRS,
        cut=MOST_IMAGES if len(manifest) > MOST_IMAGES else 0,
        repeats=manifest.repeats,
    )
    header = ["path", "copy", "size", "copy_size", "split", "copy_split", "splits_parted"]
    files = {"copies.csv": csv_text(header, table)}
    return Section("Copies across a split", html, files=files, metrics={"copies_across_splits": len(found)})
