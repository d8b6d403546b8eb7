"""Each strategy end to end on a tiny set; what is written, and resuming."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline import schema
from pipeline.data.manifest import Manifest
from pipeline.finetune import saved, strategies
from pipeline.finetune.outputs import read_curves
from pipeline.finetune.run import run_strategy
from tests.finetune import world

NAMES = [n for n in world.PARAMS["strategies"] if n != "direct"]


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_ends_in_its_files(name: str, manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    result = run_strategy(name, manifest, world.weights(), world.params(repeats=2), tmp_path, cache=cache)

    assert result == schema.read_json(tmp_path / "metrics.json")
    assert [r["repeat"] for r in result["repeats"]] == [0, 1]
    assert all((r["n_train"], r["n_val"], r["n_test"], r["epochs"]) == (24, 9, 9, 2) for r in result["repeats"])
    assert result["mean"]["accuracy"] == pytest.approx(np.mean([r["accuracy"] for r in result["repeats"]]))
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [r["id"] for r in rows] == [str(i) for r in (0, 1) for i in manifest.ids[manifest.rows("test", r)]]
    for row in rows:
        shown = np.array([float(row[f"p:{c}"]) for c in world.CLASSES])
        assert shown.sum() == pytest.approx(1, abs=1e-4)
        assert row["predicted"] == world.CLASSES[shown.argmax()]
        assert row["true"] == manifest.labels[list(manifest.ids).index(row["id"])]
    right = np.mean([r["predicted"] == r["true"] for r in rows if r["repeat"] == "0"])
    assert result["repeats"][0]["accuracy"] == pytest.approx(right)
    assert [[row["epoch"] for row in curve] for curve in read_curves(tmp_path / "curves.csv")] == [[1, 2], [1, 2]]
    table = schema.read_json(tmp_path / "groups.json")
    assert sum(g["values"] for g in table) == result["values"]

    # The model on disk answers as the one that was tested.
    model = saved.read(tmp_path)
    assert model.classes == world.CLASSES
    first = manifest.rows("test", 0)[:2]
    shown = model.probabilities([manifest.file(int(i)) for i in first])
    for row, own in zip(rows, shown, strict=False):
        assert [float(row[f"p:{c}"]) for c in world.CLASSES] == pytest.approx(own, abs=2e-3)
    assert not list(cache.glob("finetune-runs/*"))


def test_strategies_are_all_tried() -> None:
    kinds = {s["kind"] for s in world.PARAMS["strategies"].values()}
    assert kinds | {"resnet50"} == set(strategies.STRATEGIES)
