"""The sections of the stages sanity and tuned: what they say, and that they stay out where there is nothing."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import json_files
from pipeline.data.manifest import Manifest
from pipeline.figures.tuned_network import read_tuned_network
from pipeline.strategies.sanity.panel import KINDS, panel
from pipeline.strategies.sanity.plot import draw
from pipeline.strategies.sanity.step import Step, write
from tests.report.test_page import Page
from tests.report.world import (
    heads_params,
    make_images,
    make_manifest,
    make_page,
    make_world,
    report_params,
    write_head,
)

STEPS = [
    Step(
        "initial loss",
        "fail",
        "The loss is 4.9.",
        "Bad <initialisation>.",
        {"batch": [1.0, 2.0], "loss": [4.0, 5.8]},
        {"loss": 2.2},
    ),
    Step("overfit a handful of batches", "pass", "All.", "", {"pass": [1.0], "accuracy": [1.0]}, {"accuracy": 1.0}),
    Step(
        "learning rate", "warn", "Off.", "Try 0.1.", {"rate": [1e-4, 0.1, 1.0], "loss": [2.0, 1.0, None]}, {"rate": 0.1}
    ),
    Step(
        "coarse grid",
        "pass",
        "Best.",
        "",
        {"rate": [0.1, 0.1, 1.0], "weight_decay": [0.0, 0.01, 0.0], "val_accuracy": [0.5, 0.6, None]},
        {"rate": 0.1},
    ),
    Step("curve", "fail", "None.", "Lower the rate.", {}),
]


def test_what_is_drawn_of_a_step() -> None:
    shown = panel(STEPS[3])
    assert shown is not None
    assert shown.series == {"decay 0": [(0.1, 0.5)], "decay 0.01": [(0.1, 0.6)]}, "what diverged is no point"
    assert shown.spot == ((0.1, 0.6), "0.1")
    first = panel(STEPS[0])
    assert first is not None and first.level == (2.2, "chance") and first.spot is None
    assert panel(STEPS[4]) is None
    assert {step.name for step in STEPS} <= set(KINDS)


def test_the_picture_of_all_steps_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(STEPS, tmp_path / name, title="cnn")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert text.count('id="axes_') == 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    names = [f"{i}.png" for i in range(24)]
    make_images(tmp_path / "images", names)
    manifest = make_manifest(tmp_path / "images", names, ["ab"[i % 2] for i in range(24)], repeats=1)
    make_world(tmp_path, manifest, ["pool5-avg"])
    write_tuned(tmp_path, manifest)
    write("cnn", STEPS, tmp_path / "sanity/cnn")
    return tmp_path


def write_tuned(out: Path, manifest: Manifest) -> None:
    """What the stage `tuned` leaves, of a network that is always right and a source that is always wrong."""
    for root, sharpness in ((out / "tuned", 50.0), (out / "tuned/source", -50.0)):
        write_head(root / "heads/pool5-avg-svm", manifest, "pool5-avg", "svm", dim=4, sharpness=sharpness)
    lone = out / "tuned/heads/fc7-flatten-svm"
    write_head(lone, manifest, "fc7-flatten", "svm", dim=4, sharpness=1.0)
    noted = json_files.read(lone / "metrics.json")
    noted["repeats"][0]["notes"] = ["C = 1 without a choice"]
    json_files.write(lone / "metrics.json", noted)
    both: dict[str, Any] = {"source": 0.0, "tuned": 1.0}
    record = {
        "strategy": "finetune",
        "split": 0,
        **{"n_train": 14, "n_val": 4, "n_test": 6},
        "view": {"view": "crop", "crop": 32, "scales": [36], "background": [255, 255, 255]},
        "networks": {side: {"arch": "vgg16", "sha256": "ab"} for side in both},
        "accuracy": {"pool5-avg": {"svm": both}, "fc7-flatten": {"svm": {"tuned": 0.5}}},
        "hashes": {"itq8-pool5-avg": {"map_at_k": {"source": 0.25, "tuned": 0.5}, "k": {"source": 5, "tuned": 5}}},
        "left_out": {"source": {"fc7-flatten": "it stops at pool5"}, "tuned": {}},
    }
    json_files.write(out / "tuned/metrics.json", record)


def page_of(place: Path, **names: Any) -> tuple[Page, Path]:
    index = make_page(place, report_params(), heads=heads_params(), specs=["pool5-avg"], **names)
    return Page(index), index.parent


def test_the_page_tells_what_was_seen_and_what_to_try(place: Path) -> None:
    page, out = page_of(place, sanity=["cnn"])
    text = " ".join(page.text.split())
    assert {"sanity", "tuned"} <= set(page.ids)
    assert "Initial loss: fail" in text and "The loss is 4.9. Bad <initialisation>." in text
    assert "cnn: fail" in text
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["sanity"] == {"cnn": "fail"}
    rows = list(csv.DictReader((out / "sanity.csv").open()))
    assert [row["verdict"] for row in rows] == [step.verdict for step in STEPS]


def test_the_tuned_network_stands_beside_its_source(place: Path) -> None:
    page, out = page_of(place)
    text = " ".join(page.text.split())
    assert "+100.0" in text and "+25.0" in text
    rows = list(csv.DictReader((out / "tuned_network.csv").open()))
    assert [(r["what"], r["figure"], r["source"], r["tuned"], r["gain"]) for r in rows] == [
        ("svm on pool5-avg", "accuracy", "0", "1", "1"),
        ("svm on fc7-flatten", "accuracy", "", "0.5", ""),
        ("itq8-pool5-avg", "mAP@5", "0.25", "0.5", "0.25"),
    ]
    assert "fc7-flatten of the source (it stops at pool5)" in text
    assert "svm on fc7-flatten of the tuned network: C = 1 without a choice." in text
    assert "Only the first split is used" in text
    gains = json.loads((out / "metrics.json").read_text())["tuned_gain"]
    assert gains == {"svm on pool5-avg": 1.0, "itq8-pool5-avg": 0.25}
    found = read_tuned_network(place / "tuned")
    assert found is not None
    # Six test images, all right by one and all wrong by the other: 2 / 2^6.
    assert found.pairs[0].p == pytest.approx(2 / 64)


def test_sections_without_results_stay_out(place: Path) -> None:
    write("cnn", [], place / "sanity/cnn")
    json_files.write(place / "tuned/metrics.json", {"strategy": "finetune", "skipped": "no labels"})
    page, _ = page_of(place, sanity=["cnn"])
    assert not {"sanity", "tuned"} & set(page.ids)
    shutil.rmtree(place / "tuned")
    page, _ = page_of(place)
    assert not {"sanity", "tuned"} & set(page.ids)
