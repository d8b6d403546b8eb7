"""Recall by class beside accuracy: the numbers by hand, two classes and a hundred, and classes without test images."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.figures.class_recall import recall_of
from pipeline.figures.inputs import read_inputs
from pipeline.figures.run import figures_of
from pipeline.metrics.classify import measure
from pipeline.report.sections import strategies
from pipeline.report.sections.class_recall import MOST_CLASSES, csv_of, show
from tests.report.test_strategies import SPECS, add_val_scores, write_strategy
from tests.report.world import heads_params, make_images, make_manifest, make_world, report_params


def manifest_of(classes: Sequence[str], *, per_class: int = 4, repeats: int = 2) -> Any:
    """Of every class one image is trained on, the others are tested, in every repeat."""
    targets = np.tile(np.arange(len(classes)), per_class)
    splits = np.where(np.arange(len(targets)) < len(classes), "train", "test")
    return SimpleNamespace(classes=tuple(classes), targets=targets, splits=np.tile(splits, (repeats, 1)))


def repeats_of(*recalls: Iterable[float | None]) -> list[dict[str, Any]]:
    return [{"class_recall": list(one)} for one in recalls]


def test_means_and_spreads_are_those_of_the_repeats() -> None:
    """Women .8 and .9, men .5 and .7."""
    own = {"tuned": repeats_of([0.8, 0.5], [0.9, 0.7]), "plain": repeats_of([0.4, 0.6], [0.4, 0.8])}
    found = recall_of(own, manifest_of(["female", "male"]))
    assert np.allclose(found.mean, [[0.85, 0.4], [0.6, 0.7]])
    assert np.allclose(found.std, [[0.1 / 2**0.5, 0.0], [0.2 / 2**0.5, 0.2 / 2**0.5]])
    assert list(found.images) == [3, 3]
    assert found.lowest("tuned")[0] == "male" and found.lowest("plain") == ("female", 0.4)
    text = " ".join(re.sub(r"<[^>]+>", " ", show(found, "tuned", 2)).split())
    assert "tuned finds fewest of male, 60.0 % of its test images, and most of female, 85.0" in text.replace(
        "\u202f", " "
    )
    assert "mean of both 72.5 55.0 lowest 60.0 40.0" in text


def test_what_the_metrics_measure_is_what_is_shown() -> None:
    true = np.array([0, 0, 1, 1, 1])
    record = measure(true, np.eye(2)[[0, 1, 1, 1, 0]], probabilities=False)
    found = recall_of({"one": [record]}, manifest_of(["a", "b"], repeats=1))
    assert np.allclose(found.mean[:, 0], [1 / 2, 2 / 3]) and np.isnan(found.std).all()
    assert found.mean[:, 0].mean() == pytest.approx(record["mean_class_recall"])
    assert "±" not in show(found, "one", 1)


def test_of_a_hundred_classes_the_hardest_are_shown_and_all_are_kept() -> None:
    names = [f"class{i:02}" for i in range(100)]
    own = np.random.default_rng(0).permutation(100) / 100
    found = recall_of({"one": repeats_of(own, own), "two": repeats_of(own, own)}, manifest_of(names))
    html = show(found, "one", 2)
    shown = re.findall(r'<th scope="row" data-key="(class\d\d)"', html)
    assert shown == [names[i] for i in np.argsort(own)[:MOST_CLASSES]]
    assert f"The {MOST_CLASSES} hardest of 100 classes" in html and "mean of all 100" in html
    rows = list(csv.DictReader(io.StringIO(csv_of(found, {"one": 2, "two": 2}))))
    assert len(rows) == 200 and {row["class"] for row in rows} == set(names)
    assert [float(row["recall"]) for row in rows if row["strategy"] == "two"] == pytest.approx(own)


def test_a_class_without_test_images_is_left_out_and_said_to_be() -> None:
    """b has test images in the second repeat alone, c in none."""
    found = recall_of({"one": repeats_of([1.0, None, None], [0.5, 0.25, None])}, manifest_of(["a", "b", "c"]))
    assert found.mean[1, 0] == 0.25 and np.isnan(found.mean[2, 0]) and np.isnan(found.std[1, 0])
    assert found.hardest == [1, 0]
    html = show(found, "one", 2)
    assert "1 without a test image is left out" in html and 'data-key="c"' not in html and "nan" not in html
    assert list(csv.DictReader(io.StringIO(csv_of(found, {"one": 2}))))[2]["recall"] == ""


def test_names_of_classes_are_escaped_and_heads_stand_beside_strategies(tmp_path: Path) -> None:
    names = [f"{i:03}.png" for i in range(60)]
    make_images(tmp_path / "images", names)
    manifest = make_manifest(tmp_path / "images", names, [("<cat>", "dog", "owl")[i % 3] for i in range(60)])
    make_world(tmp_path, manifest, SPECS)
    add_val_scores(tmp_path / "heads", {"conv5_2-avg": 0.4, "pool5-avg": 0.6})
    write_strategy(tmp_path / "finetune", "frozen")
    inputs = read_inputs(tmp_path, report_params(), heads=heads_params(), specs=SPECS, strategies=["frozen"])
    section = strategies.build(figures_of(inputs))
    assert section is not None and "<cat>" not in section.html and "Recall by class" in section.html
    rows = list(csv.DictReader(io.StringIO(section.files["class_recall.csv"])))
    own = {row["class"]: float(row["recall"]) for row in rows if row["strategy"] == "svm on pool5-avg"}
    svm = next(run for run in inputs.runs if run.name == "pool5-avg + svm")
    wanted = np.mean([r["class_recall"] for r in svm.repeats[:2]], axis=0)
    assert list(own) == ["<cat>", "dog", "owl"] and list(own.values()) == pytest.approx(list(wanted), rel=1e-5)
