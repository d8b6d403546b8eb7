"""Copies of one picture in another size, on two sides of a split, are found; what only looks much the same is not."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest
from pipeline.figures import copies
from pipeline.figures.inputs import Inputs
from pipeline.figures.thumbnails import Album
from tests.report.world import SETTINGS, heads_params, make_manifest, make_page, make_world, report_params, store_codes

SPEC = "pool5-flatten"


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """A smooth picture that survives another size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).resize(size, Image.Resampling.LANCZOS)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """20 pictures in train, copies of three of them in test: smaller, tiny and as a middle square; four others."""
    for i in range(24):
        scene(i, (320, 240)).save(tmp_path / f"{i:02d}.png")
    scene(0, (160, 120)).save(tmp_path / "half.jpg", quality=85)
    scene(1, (48, 36)).save(tmp_path / "tiny.jpg", quality=75)
    scene(2, (320, 240)).crop((40, 0, 280, 240)).resize((100, 100)).save(tmp_path / "square.jpg")
    names = [p.name for p in sorted(tmp_path.iterdir())]
    made = make_manifest(tmp_path, names, ["ab"[i % 2] for i in range(len(names))], repeats=2)
    test = np.isin(made.paths, ["20.png", "21.png", "22.png", "23.png", "half.jpg", "tiny.jpg", "square.jpg"])
    return dataclasses.replace(made, splits=np.array([np.where(test, "test", "train"), ["train"] * len(names)]))


def codes_of(manifest: Manifest, *, apart: float = 0.01, twins: bool = False) -> Codes:
    """Random codes; a copy's is its picture's and `apart` of another. With `twins` all others are as near."""
    random = np.random.default_rng(0)
    own = {f"{i:02d}.png": random.standard_normal(600) for i in range(24)}
    of = {"half.jpg": "00.png", "tiny.jpg": "01.png", "square.jpg": "02.png"}
    if twins:
        of |= {f"{i}.png": f"{i - 15:02d}.png" for i in (20, 21, 22, 23)}
    rows = [own[of.get(p, p)] + apart * random.standard_normal(600) * (p in of) for p in manifest.paths.tolist()]
    return Codes.from_arrays(
        manifest.ids, np.array(rows, np.float32), spec=SPEC, settings=SETTINGS | {"layer": "pool5"}
    )


def inputs_of(manifest: Manifest, codes: Codes) -> Inputs:
    nothing = {"retrieved": (), "finetuned": (), "advice": None, "sanity": {}, "tuned_network": None, "weights": {}}
    return Inputs(
        root=manifest.root,
        manifest=manifest,
        failures=(),
        codes={SPEC: codes},
        runs=(),
        params=report_params(),
        heads_params=heads_params(),
        album=Album(manifest, (255, 255, 255)),
        **nothing,  # type: ignore[arg-type]
    )


def found(manifest: Manifest, codes: Codes) -> set[tuple[str, str]]:
    pairs = copies.find(inputs_of(manifest, codes))
    assert all((pair.repeat, pair.parted) == (0, 1) for pair in pairs)
    return {tuple(sorted((str(manifest.paths[p.first]), str(manifest.paths[p.second])))) for p in pairs}  # type: ignore[misc]


COPIES = {("00.png", "half.jpg"), ("01.png", "tiny.jpg"), ("02.png", "square.jpg")}


@pytest.mark.parametrize("apart", [0.0, 0.1, 0.5])
def test_copies_in_another_size_are_found(manifest: Manifest, apart: float) -> None:
    assert found(manifest, codes_of(manifest, apart=apart)) == COPIES


def test_near_codes_of_other_pictures_are_not_copies(manifest: Manifest) -> None:
    assert found(manifest, codes_of(manifest, twins=True)) == COPIES


def test_copies_on_one_side_harm_nothing(manifest: Manifest) -> None:
    together = dataclasses.replace(manifest, splits=manifest.splits[1:])
    assert copies.find(inputs_of(together, codes_of(manifest))) == []


def test_without_the_files_the_codes_alone_decide(manifest: Manifest, tmp_path: Path) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    assert found(manifest, codes_of(manifest, apart=0.1)) == COPIES
    assert found(manifest, codes_of(manifest, apart=0.5)) == set()


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_codes_and_equal_codes_find_nothing_to_propose(manifest: Manifest, rows: int) -> None:
    codes = Codes.from_arrays(manifest.ids[:rows], np.ones((rows, 8), np.float32), spec=SPEC, settings=SETTINGS)
    assert copies.find(inputs_of(manifest, codes)) == []


def test_the_page_warns_and_lists_the_pairs(
    manifest: Manifest, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path_factory.mktemp("out")
    manifest = dataclasses.replace(manifest, splits=manifest.splits[[0, 0]])
    make_world(out, manifest, [SPEC], ["svm"])
    codes = codes_of(manifest)
    store_codes(out / "codes" / SPEC, manifest, SPEC, codes.rows(slice(None)))
    with caplog.at_level(logging.WARNING):
        page = make_page(out, report_params(), heads=heads_params(["svm"]), specs=[SPEC]).read_text()
    assert "3 pairs of pictures" in caplog.text
    assert 'id="copies"' in page and "Warning: 3 pairs" in page
    assert all(name in page for pair in COPIES for name in pair)
    with (out / "report/copies.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert {(r["path"], r["copy"]) for r in rows} | {(r["copy"], r["path"]) for r in rows} >= COPIES
    assert {(r["split"], r["copy_split"]) for r in rows} <= {("train", "test"), ("test", "train")}
    assert json.loads((out / "report/metrics.json").read_text())["copies_across_splits"] == 3
