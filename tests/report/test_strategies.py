"""The section on strategies: there with results, left out without, and true to what the stage wrote."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.figures.finetuned import baselines, read_finetuned
from pipeline.figures.inputs import Inputs, read_inputs
from pipeline.figures.records.files import Figures
from pipeline.figures.records.strategies import Finetuned
from pipeline.figures.run import figures_of
from pipeline.report.sections import strategies, strategy_curves
from pipeline.strategies.outputs import write_curves
from tests.report.test_page import Page
from tests.report.world import heads_params, make_images, make_manifest, make_page, make_world, report_params

SPECS = ("conv5_2-avg", "pool5-avg")
PLAIN = {"multiple": 0.0, "below": "", "every": 0, "augment": ["flip"], "labels": {}, "table": []}
# name -> (kind, settings, accuracies by repeat, validation accuracies by epoch)
STRATEGIES: dict[str, tuple[str, dict[str, Any], tuple[float, ...], tuple[float, ...]]] = {
    "frozen": ("frozen", {}, (0.6, 0.7), (0.5, 0.6, 0.6)),
    "<top>": ("finetune", {"multiple": 0.1, "below": "conv5_1"}, (0.7, 0.8), (0.4, 0.6, 0.7)),
    "half": ("finetune", {"multiple": 0.1, "below": "conv4_1"}, (0.9, 0.8), (0.5, 0.6, 0.8)),
    "small": ("finetune", {"multiple": 0.001, "below": "conv4_1"}, (0.4, 0.5), (0.3, 0.4, 0.5)),
    "scratch": ("scratch", {}, (0.3, 0.3), (0.25, 0.25, 0.45)),
    "asis": ("direct", {"augment": []}, (0.1, 0.2), ()),
}

CONVOLUTIONS = [f"conv{block}_{i}" for block, count in enumerate((2, 2, 3, 3, 3), start=1) for i in range(1, count + 1)]
NEVER_TRAINED = {
    "frozen": CONVOLUTIONS,
    "<top>": CONVOLUTIONS[:10],
    "half": CONVOLUTIONS[:7],
    "small": CONVOLUTIONS[:7],
    "scratch": [],
    "asis": [],
}


def write_strategy(folder: Path, name: str, repeats: int = 2, classes: int = 3) -> None:
    kind, settings, accuracies, curve = STRATEGIES[name]
    own = accuracies[:repeats]
    record = {
        "n_train": 30,
        "n_val": 24,
        "n_test": 40,
        "epochs": len(curve),
        "top5": 1.0,
        "macro_f1": 0.5,
        "log_loss": None,
        "predict_s": 0.1,
        "train_s": 2.5,
        "peak_memory_bytes": 2e9,
        "reading": f"The curve of {name} says so.",
    }
    records: list[dict[str, Any]] = [
        {
            "repeat": r,
            **record,
            "accuracy": a,
            "mean_class_recall": a / 2,
            "class_recall": [a, *[a / 2] * (classes - 2), 0.0],
        }
        for r, a in enumerate(own)
    ]
    figures = [key for key in record if key not in ("reading",)] + ["accuracy", "mean_class_recall"]
    columns = {key: [r[key] for r in records] for key in figures}
    json_files.write(
        folder / name / "metrics.json",
        {
            "strategy": name,
            "kind": kind,
            "settings": PLAIN | settings,
            "params": {"size": 32},
            "trained": "classifier at 1" if curve else "nothing",
            "trained_values": 100 if curve else 0,
            "never_trained": NEVER_TRAINED[name],
            "repeats": records,
            "mean": {key: None if None in v else float(np.mean(v)) for key, v in columns.items()},
            "std": {key: None if None in v else float(np.ptp(v)) / math.sqrt(2) for key, v in columns.items()},
            "majority": {"accuracy": 0.25, "mean_class_recall": 0.25},
        },
    )
    rows = [
        {
            "epoch": e,
            "step": 10 * e,
            "train_loss": 1.0 / e,
            "train_accuracy": v,
            "val_loss": 2.0 / e,
            "val_accuracy": v,
            "rates": {"conv1_1": 0.0, "classifier": 0.1 / e, "classifier (biases and norms)": 0.1 / e},
        }
        for e, v in enumerate(curve, start=1)
    ]
    write_curves(folder / name / "curves.csv", [rows for _ in own])


def add_val_scores(folder: Path, scores: dict[str, float]) -> None:
    """Layer -> score on val, whatever the test figures say."""
    for path in folder.glob("*/metrics.json"):
        record = json_files.read(path)
        for repeat in record["repeats"]:
            repeat["val_score"] = scores[record["spec"]]
        json_files.write(path, record)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    names = [f"{i:03}.png" for i in range(90)]
    make_images(folder / "images", names)
    manifest = make_manifest(folder / "images", names, [("cat", "dog", "owl")[i % 3] for i in range(90)])
    make_world(folder, manifest, SPECS)
    add_val_scores(folder / "heads", {"conv5_2-avg": 0.4, "pool5-avg": 0.6})
    for name in STRATEGIES:
        write_strategy(folder / "finetune", name)
    return folder


@pytest.fixture(scope="module")
def inputs(world: Path) -> Inputs:
    return read_inputs(world, report_params(), heads=heads_params(), specs=SPECS, strategies=list(STRATEGIES))


@pytest.fixture(scope="module")
def figures(inputs: Inputs) -> Figures:
    return figures_of(inputs)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_page_has_the_section_and_its_files(world: Path) -> None:
    path = make_page(world, report_params(), heads=heads_params(), specs=SPECS, strategies=list(STRATEGIES))
    page = Page(path)
    text = " ".join(page.text.split())
    assert "strategies" in page.ids
    assert "half has the best accuracy of the strategies that were trained here, 85.0 ± 7.1" in text
    assert "the same network from random values reaches 30.0 ± 0.0" in text
    assert "The curve of <top> says so." in text and "<top>" not in path.read_text(encoding="utf-8")
    metrics = json.loads((path.parent / "metrics.json").read_text())
    assert metrics["strategy_accuracy"]["half"] == pytest.approx(0.85)
    assert {"strategies.csv", "class_recall.csv", "plots/strategies.csv", "plots/strategy_curves.csv"} <= {
        str(p.relative_to(path.parent)) for p in path.parent.rglob("*.csv")
    }


def test_without_results_it_is_left_out(world: Path) -> None:
    assert "strategies" not in Page(make_page(world, report_params(), heads=heads_params(), specs=SPECS)).ids


def test_results_that_are_missing_are_named(world: Path) -> None:
    with pytest.raises(UserError, match="no results of gradual, all"):
        read_inputs(world, report_params(), heads=heads_params(), specs=SPECS, strategies=["gradual", "frozen", "all"])


def test_skipped_strategies_stay_out(world: Path, tmp_path: Path) -> None:
    json_files.write(tmp_path / "frozen" / "metrics.json", {"strategy": "frozen", "skipped": "no labels"})
    assert read_finetuned(tmp_path, ["frozen"]) == ()


def test_the_table_holds_every_strategy_and_both_heads(figures: Figures) -> None:
    section = strategies.build(figures)
    assert section is not None
    rows = {row["strategy"]: row for row in rows_of(section.files["strategies.csv"])}
    assert rows.keys() == {*STRATEGIES, "svm on pool5-avg", "softmax on pool5-avg"}
    assert float(rows["half"]["accuracy"]) == pytest.approx(0.85)
    assert float(rows["half"]["accuracy_std"]) == pytest.approx(np.std([0.9, 0.8], ddof=1), rel=1e-5)
    assert rows["half"]["log_loss"] == "" and rows["svm on pool5-avg"]["epochs"] == ""
    assert int(rows["svm on pool5-avg"]["trained_values"]) == (512 + 1) * 3
    # Gains against scratch, by hand: half starts at .5 against .25 and ends at .8 against .45.
    assert float(rows["half"]["start_gain"]) == pytest.approx(0.25)
    assert float(rows["half"]["asymptote_gain"]) == pytest.approx(0.35)
    assert rows["scratch"]["start_gain"] == "" == rows["asis"]["start_gain"]
    assert rows["half"]["lowest_recall_class"] == "owl" and float(rows["half"]["lowest_class_recall"]) == 0


def test_a_heads_layer_is_chosen_on_val_over_the_strategies_repeats(inputs: Inputs) -> None:
    """conv5_2 does better on test, pool5 on val; only the first two of five repeats count."""
    assert max(inputs.runs, key=lambda run: run.mean("accuracy")).spec.layer == "conv5_2"
    (svm,) = baselines(inputs.runs, ["svm"], 2)
    assert svm.name == "svm on pool5-avg"
    assert svm.mean("accuracy") == pytest.approx(svm.run.values("accuracy")[:2].mean())


def test_heads_without_a_score_on_val_stay_out(inputs: Inputs) -> None:
    bare = [
        dataclasses.replace(run, repeats=tuple({**r, "val_score": None} for r in run.repeats)) for run in inputs.runs
    ]
    assert baselines(bare, ["svm", "softmax"], 2) == []


def frozen_depths(found: list[Finetuned]) -> list[tuple[int, str]] | None:
    drawn = strategy_curves.depth(found, CONVOLUTIONS, "accuracy")
    return None if drawn is None else [(count, one.name) for count, one in drawn.points]


def test_the_depth_of_freezing_compares_what_differs_in_nothing_else(inputs: Inputs) -> None:
    """conv4_1 is VGG-16's eighth convolution and conv5_1 its eleventh; `small` has another multiple."""
    assert frozen_depths(list(inputs.finetuned)) == [(7, "half"), (10, "<top>"), (13, "frozen")]
    assert frozen_depths([one for one in inputs.finetuned if one.name in ("half", "small")]) is None
    assert frozen_depths([one for one in inputs.finetuned if one.kind != "finetune"]) is None
    # The table of parameters counts, not what the settings promise: a multiple of 0 freezes all.
    still = [dataclasses.replace(o, record={**o.record, "never_trained": CONVOLUTIONS}) for o in inputs.finetuned[:2]]
    assert frozen_depths(still) is None


def test_a_curve_shows_the_groups_that_moved(inputs: Inputs, figures: Figures) -> None:
    assert figures.strategies is not None and figures.strategies.convolutions == tuple(CONVOLUTIONS)
    one = next(one for one in inputs.finetuned if one.name == "half")
    titles = [plot.title for plot in strategy_curves.of_strategy(one)]
    assert titles == ["Loss", "Accuracy", "Learning rate"]
    rate = strategy_curves.of_strategy(one)[2]
    assert rate.legend == [] and "by epoch: classifier" in rate.chart
    assert one.mean_curve("val_accuracy") == [(1, 0.5), (2, 0.6), (3, 0.8)]
    asis = next(one for one in inputs.finetuned if one.name == "asis")
    assert strategy_curves.of_strategy(asis) == []


def test_one_split_and_one_untrained_strategy_still_make_a_section(world: Path, tmp_path: Path) -> None:
    for name in ("dataset", "codes", "heads"):
        (tmp_path / name).symlink_to(world / name)
    write_strategy(tmp_path / "finetune", "asis", repeats=1)
    own = read_inputs(tmp_path, report_params(), heads=heads_params(), specs=SPECS, strategies=["asis"])
    section = strategies.build(figures_of(own))
    assert section is not None and "±" not in section.html.split("<tbody>")[0]


def test_a_strategy_of_fewer_splits_is_named(world: Path, tmp_path: Path) -> None:
    for name in ("dataset", "codes", "heads"):
        (tmp_path / name).symlink_to(world / name)
    for name, repeats in (("frozen", 2), ("<top>", 1)):
        write_strategy(tmp_path / "finetune", name, repeats)
    names = ["frozen", "<top>"]
    own = read_inputs(tmp_path, report_params(), heads=heads_params(), specs=SPECS, strategies=names)
    section = strategies.build(figures_of(own))
    assert section is not None
    assert "over 2 splits (&lt;top&gt; over 1)" in " ".join(section.html.split())
