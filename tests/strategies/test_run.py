"""Each strategy end to end on a tiny set; what is written, and resuming."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.strategies import baselines, saved, strategies
from pipeline.strategies.augment import centre
from pipeline.strategies.batches import PixelRows
from pipeline.strategies.outputs import read_curves
from pipeline.strategies.predict import probabilities
from pipeline.strategies.prepared import place_of, prepared
from pipeline.strategies.run import run_strategy
from pipeline.strategies.sets import sets_of
from pipeline.strategies.training import Training
from tests.strategies import world

NAMES = [
    pytest.param(n, marks=pytest.mark.slow) if n == "resnet18" else n
    for n in world.PARAMS["strategies"]
    if n != "direct"
]


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_ends_in_its_files(name: str, manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    result = run_strategy(name, manifest, world.weights(), world.params(repeats=2), tmp_path, cache=cache)

    assert result == json_files.read(tmp_path / "metrics.json")
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
    table = json_files.read(tmp_path / "groups.json")
    assert sum(g["values"] for g in table) == result["values"]

    # The model on disk answers in float32, as near to the one that was tested as its precision lets it.
    near = {"fp32": 2e-3, "bf16": 2e-2}[result["precision"]]
    model = saved.read(tmp_path)
    assert model.classes == world.CLASSES
    first = manifest.rows("test", 0)[:2]
    shown = model.probabilities([manifest.file(int(i)) for i in first])
    for row, own in zip(rows, shown, strict=False):
        assert [float(row[f"p:{c}"]) for c in world.CLASSES] == pytest.approx(own, abs=near)
    assert not world.left(cache)


def test_strategies_are_all_tried() -> None:
    kinds = {s["kind"] for s in world.PARAMS["strategies"].values()}
    assert kinds | {"resnet50"} == set(strategies.STRATEGIES)


@pytest.mark.parametrize("kind", baselines.BASELINES)
def test_baselines_give_a_score_a_class(kind: str) -> None:
    with torch.device("meta"):
        net = baselines.BASELINES[kind](7, (12, 10), 0.5).eval()
        assert net(torch.zeros(2, 3, 48, 48)).shape == (2, 7)


def test_several_views_are_averaged(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    """The mean of what each view gives alone."""
    params = world.params(test_views=3, precision="bf16")
    place = place_of("finetune", manifest, world.weights(), params, cache)
    made = prepared(place, [sets_of(manifest, place.images, 0, max_train=0, seed=0)], 0)
    model, rows = made.ready.model.eval(), made.test
    how = {"batch_size": 4, "device": "cpu", "precision": "fp32"}
    assert isinstance(rows, PixelRows)
    each = []
    for view in range(3):
        pictures = rows.__getitems__([(view, i) for i in range(len(rows))])[0]
        if view == 0:
            pictures = torch.stack([centre(p, 32) for p in _whole(rows)])
        each.append(model(pictures).softmax(dim=1).detach())
    found = torch.from_numpy(probabilities(model, rows, views=3, **how))  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert not torch.equal(each[1], each[2])


def _whole(rows: PixelRows) -> list[torch.Tensor]:
    return list(torch.from_numpy(rows.images.pixels[rows.at]).permute(0, 3, 1, 2))


def test_bf16_and_hinge_run(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    params = world.params(precision="bf16", loss="hinge", epochs=1, inference_txt=True)
    result = run_strategy("finetune", manifest, world.weights(), params, tmp_path, cache=cache)
    assert result["precision"] == "bf16"
    assert result["mean"]["log_loss"] is None
    assert len((tmp_path / "probabilities.txt").read_text().splitlines()) == 9
    assert len((tmp_path / "inference.txt").read_text().splitlines()) == 10
    run_strategy("finetune", manifest, world.weights(), world.params(epochs=1, precision="fp32"), tmp_path, cache=cache)
    assert not {"inference.txt", "probabilities.txt"} & {p.name for p in tmp_path.iterdir()}, "of other results"


@pytest.mark.network
def test_the_same_run_gives_the_same_bytes(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        run_strategy("gradual", manifest, world.weights(), world.params(), tmp_path / folder, cache=cache)
    for name in ("predictions.csv", "curves.csv", "groups.json", saved.MODEL, saved.HEAD):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_an_unknown_strategy_is_named(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown strategy 'svm'; allowed: direct, frozen"):
        run_strategy("svm", manifest, world.weights(), world.params(), tmp_path, cache=cache)


@pytest.mark.network
@pytest.mark.one_precision  # as in test_begun.py
@pytest.mark.slow
def test_a_real_kill_and_a_second_run_give_the_undisturbed_bytes(manifest: Manifest, tmp_path: Path) -> None:
    manifest.write(tmp_path / "dataset")
    code = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from pipeline.data.manifest import Manifest; from pipeline.strategies.run import run_strategy\n"
        "from tests.strategies import world; base = Path(sys.argv[1])\n"
        "run_strategy('scratch', Manifest.read(base / 'dataset'), world.weights(),\n"
        "             world.params(epochs=60), base / sys.argv[2], cache=base / (sys.argv[2] + '-cache'))\n"
    )

    def start(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path), out])

    assert start("whole").wait() == 0
    killed = start("killed")
    while not list(tmp_path.glob("killed-cache/finetune-runs/*/last.safetensors")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert start("killed").wait() == 0
    for name in ("predictions.csv", "curves.csv", saved.MODEL):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.network
def test_a_finished_strategy_is_not_trained_again(
    manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a setting or a file of it has changed."""
    trained: list[int] = []
    step = Training.training_step

    def counted(self: Training, batch: Any, index: int) -> Any:
        trained.append(index)
        return step(self, batch, index)

    monkeypatch.setattr(Training, "training_step", counted)

    def steps_of_a_run(**changes: Any) -> int:
        trained.clear()
        run_strategy("fc", manifest, world.weights(), world.params(**changes), tmp_path / "out", cache=tmp_path)
        return len(trained)

    first = steps_of_a_run()
    assert first > 0
    assert steps_of_a_run() == 0
    assert steps_of_a_run(learning_rate=0.01) == first
    (tmp_path / "out" / "predictions.csv").write_text("changed")
    assert steps_of_a_run(learning_rate=0.01) == first
