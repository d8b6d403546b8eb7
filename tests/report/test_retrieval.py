"""The section on retrieval: there with results, left out without, and true to what the stage wrote."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.config import HashSpec
from pipeline.figures.inputs import Inputs, read_inputs
from pipeline.figures.neighbours import NEIGHBOURS, QUERIES, shown
from pipeline.figures.records.files import Figures
from pipeline.figures.run import figures_of
from pipeline.report.sections import hash_training, retrieval
from pipeline.retrieval.run import Evaluation, write
from tests.report.test_page import Page
from tests.report.world import (
    heads_params,
    make_hashes,
    make_images,
    make_manifest,
    make_page,
    make_world,
    report_params,
)

SPECS = ("pool5-avg", "conv5_2-avg")
NAMES = (
    "cosine-pool5-avg",
    "itq16-pool5-avg",
    "itq32-pool5-avg",
    "lsh16-conv5_2-avg",
    "sigmoid-pool5-avg",
    "dbn16-pool5-avg",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    names = [f"<{i:03}>.png" for i in range(90)]
    make_images(folder / "images", names)
    manifest = make_manifest(folder / "images", names, [("<b>cat</b>", "dog & co")[i % 2] for i in range(90)])
    make_world(folder, manifest, SPECS)
    make_hashes(folder, manifest, NAMES)
    return folder


@pytest.fixture(scope="module")
def inputs(world: Path) -> Inputs:
    return read_inputs(world, report_params(), heads=heads_params(), specs=SPECS, retrieval=NAMES)


@pytest.fixture(scope="module")
def figures(inputs: Inputs) -> Figures:
    return figures_of(inputs)


def test_without_results_it_is_left_out(world: Path) -> None:
    page = Page(make_page(world, report_params(), heads=heads_params(), specs=SPECS))
    assert "retrieval" not in page.ids


def skip(world: Path, name: str, why: str) -> Path:
    """Files of a spec that the stage skipped."""
    write(Evaluation({"spec": name, "hasher": HashSpec.parse(name).hasher, "skipped": why}), None, world / name)
    return world


def test_hashes_that_were_not_measured_are_said_with_the_reason(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    skip(tmp_path / "world" / "retrieval", "lsh8-pool5-avg", "its bits <are> all equal")
    names = (*NAMES, "lsh8-pool5-avg")
    path = make_page(tmp_path / "world", report_params(), heads=heads_params(), specs=SPECS, retrieval=names)
    assert "lsh8-pool5-avg, because its bits <are> all equal." in " ".join(Page(path).text.split())
    rows = {row["spec"]: row for row in csv.DictReader((path.parent / "retrieval.csv").open(encoding="utf-8"))}
    assert set(rows) == set(names)
    assert rows["lsh8-pool5-avg"]["skipped"] == "its bits <are> all equal" and not rows["lsh8-pool5-avg"]["map_at_k"]
    assert not rows[NAMES[1]]["skipped"]
    alone = ("lsh8-pool5-avg", NAMES[0])
    page = Page(make_page(tmp_path / "world", report_params(), heads=heads_params(), specs=SPECS, retrieval=alone))
    assert "retrieval" in page.ids and "because its bits <are> all equal" in page.text


def test_results_that_are_missing_are_named(world: Path) -> None:
    with pytest.raises(UserError, match="no results of pca16-pool5-avg, pca32-pool5-avg"):
        make_page(
            world, report_params(), heads=heads_params(), specs=SPECS, retrieval=["pca16-pool5-avg", "pca32-pool5-avg"]
        )


def test_the_table_is_what_the_stage_wrote(figures: Figures, world: Path) -> None:
    section = retrieval.build(figures)
    assert section is not None
    rows = {row["spec"]: row for row in csv.DictReader(io.StringIO(section.files["retrieval.csv"]))}
    assert tuple(rows) == NAMES
    for name, row in rows.items():
        record = json.loads((world / "retrieval" / name / "metrics.json").read_text())
        assert float(row["map_at_k"]) == pytest.approx(record["map_at_k"], rel=1e-5)
        assert float(row["linear.accuracy"]) == pytest.approx(record["linear"]["accuracy"], rel=1e-5)
        assert (row["nbits"] == "") == (record["nbits"] is None)
    best = figures.metrics["best_hash"]
    assert best["map_at_k"] == pytest.approx(max(float(r["map_at_k"]) for r in rows.values() if r["nbits"]), abs=1e-5)


def test_the_training_of_a_dbn_is_drawn_and_written(figures: Figures, world: Path) -> None:
    section = retrieval.build(figures)
    assert section is not None
    with (world / "retrieval/dbn16-pool5-avg/training.csv").open() as f:
        wanted = list(csv.DictReader(f))
    written = list(csv.DictReader(io.StringIO(section.files["plots/hash_training.csv"])))
    assert [row["epoch"] for row in written] == [row["epoch"] for row in wanted]
    assert {row["spec"] for row in written} == {"dbn16-pool5-avg"}
    drawn = {plot.title: plot for plot in hash_training.draw(wanted)}
    assert set(drawn) == {"Free-energy gap", "Reconstruction", "Bit means", "Rounding"}
    assert [name for _, name in drawn["Rounding"].legend] == ["before rounding", "bits"]
    assert "How dbn16-pool5-avg was trained" in section.html and "How itq16" not in section.html


def test_approximate_indexes_are_told_beside_the_exact_scan(figures: Figures, world: Path) -> None:
    section = retrieval.build(figures)
    assert section is not None
    record = json.loads((world / "retrieval/itq16-pool5-avg/metrics.json").read_text())["approximate"]["multihash"]
    assert f"{100 * record['recall']:.1f}" in section.html
    assert section.html.count('<td data-key="multihash">') == len(NAMES) - 1  # all but cosine


def test_the_pictures_are_the_nearest_of_the_database(inputs: Inputs) -> None:
    one = next(r for r in inputs.retrieved if r.is_reference)
    queries = shown(inputs, [("cosine", one)])
    assert len(queries) == QUERIES
    codes, manifest = inputs.codes["pool5-avg"], inputs.manifest
    database = np.flatnonzero(manifest.splits[0] != "test")
    x = codes.rows(slice(0, len(codes))).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for query in queries:
        row = list(manifest.paths).index(query.picture.name)
        assert manifest.splits[0][row] == "test" and query.label == manifest.labels[row]
        nearest = database[np.argsort(-x[database] @ x[row], kind="stable")[:NEIGHBOURS]]
        (answer,) = query.answers
        assert answer.name == one.name and len(answer.neighbours) == NEIGHBOURS
        assert [n.picture.name for n in answer.neighbours] == [str(manifest.paths[i]) for i in nearest]
        assert [n.hit == "hit" for n in answer.neighbours] == [manifest.labels[i] == query.label for i in nearest]
        assert [n.distance for n in answer.neighbours] == pytest.approx(1 - x[nearest] @ x[row], abs=1e-5)


def test_unlabelled_sets_have_recall_alone(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(60)]
    make_images(tmp_path / "images", names)
    manifest = make_manifest(tmp_path / "images", names, [""] * 60)
    make_world(tmp_path, manifest, SPECS)
    make_hashes(tmp_path, manifest, NAMES)
    path = make_page(tmp_path, report_params(), heads=heads_params(), specs=SPECS, retrieval=NAMES)
    text = " ".join(Page(path).text.split())
    assert "recall@3 against cosine" in text and "mAP" not in text
    assert "nan" not in text.lower().split()
