"""Each step of the procedure passes where it should and fails where something is made wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.base.errors import UserError
from pipeline.config import SanityParams
from pipeline.data.manifest import Manifest
from pipeline.strategies.prepared import place_of
from pipeline.strategies.sanity import first, grid
from pipeline.strategies.sanity.bench import Bench
from pipeline.strategies.sanity.run import check
from pipeline.strategies.sanity.step import VERDICTS, Step, read, write
from pipeline.strategies.sets import sets_of
from tests.strategies import world

pytestmark = pytest.mark.network

HOW: dict[str, Any] = {
    "strategies": ["cnn"],
    "batches": 2,
    "overfit_steps": 60,
    "sweep_low": 1e-5,
    "sweep_high": 10.0,
    "sweep_steps": 13,
    "grid_rates": [0.25, 1.0, 4.0],
    "grid_decays": [0.0, 1.0],
    "epochs": 1,
    "rounds": 1,
}


def how(**changes: Any) -> SanityParams:
    return config.validate(SanityParams, HOW | changes, where="sanity")


def bench_of(name: str, manifest: Manifest, cache: Path, **changes: Any) -> Bench:
    place = place_of(name, manifest, world.weights(), world.params(**changes), cache)
    return Bench(place, sets_of(manifest, place.images, 0, max_train=0, seed=0), how())


def test_a_sound_strategy_passes(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    steps = check("cnn", manifest, world.weights(), world.params(), how(rounds=2), cache=cache)
    assert [s.name for s in steps] == [
        "initial loss",
        "overfit a handful of batches",
        "learning rate",
        "coarse grid",
        "finer grid",
        "curve",
    ]
    assert [s.verdict for s in steps[:2]] == ["pass", "pass"]
    for step in steps:
        assert step.seen.endswith(".") and (step.verdict == "pass") == (step.advice == "")
        assert len({len(values) for values in step.curve.values()}) == 1
        assert step.marks.keys() <= step.curve.keys()
    assert steps[1].curve["accuracy"][-1] == 1.0
    # Three rates by two decays, then two more rates with the best decay, or one beyond an edge.
    coarse, finer = (len(s.curve["rate"]) for s in steps[3:5])
    assert coarse == 6 and finer in (7, 8)
    assert len(set(steps[4].curve["weight_decay"][6:])) == 1
    record = write("cnn", steps, tmp_path)
    assert record["verdict"] == min((s.verdict for s in steps), key=VERDICTS.index)
    assert read(tmp_path) == steps


def test_the_test_split_is_never_looked_at(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    """Other labels on the test images change nothing that is seen."""
    settings = (world.weights(), world.params(), how(grid_rates=[1.0], grid_decays=[1.0]))
    before = check("fc", manifest, *settings, cache=cache)
    labels = manifest.labels.copy()
    labels[manifest.rows("test")] = "red"
    assert check("fc", dataclasses.replace(manifest, labels=labels), *settings, cache=tmp_path) == before


def test_a_bad_initialisation_is_seen(manifest: Manifest, cache: Path) -> None:
    at = bench_of("cnn", manifest, cache)
    made = at.ready()
    assert first.first_loss(at, made).verdict == "pass"
    assert made.training is not None
    last = [m for m in made.training.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(2000)
    step = first.first_loss(at, made)
    assert step.verdict != "pass"
    assert "initialisation" in step.advice
    with torch.no_grad():
        last.weight.fill_(math.nan)
    step = first.first_loss(at, made)
    assert step.verdict == "fail"
    assert step.curve["loss"] == [None, None]


def test_the_loss_of_chance_is_that_of_the_loss_function(manifest: Manifest, cache: Path) -> None:
    assert bench_of("cnn", manifest, cache).chance == pytest.approx(math.log(3))
    at = bench_of("cnn", manifest, cache, loss="hinge")
    assert at.chance == 2.0
    step = first.first_loss(at, at.ready())
    assert step.marks == {"loss": 2.0}
    assert step.curve["loss"] == pytest.approx([2.0, 2.0], abs=0.6)


def test_what_can_not_be_learned_is_seen(manifest: Manifest, cache: Path) -> None:
    at = bench_of("cnn", manifest, cache)
    made = at.ready()
    assert made.train is not None
    before = {n: t.clone() for n, t in made.ready.model.canonical_state().items()}
    assert first.overfit(at, made).verdict == "pass"
    assert world.same(before, made.ready.model.canonical_state()), "a copy is trained"
    # One pixel for every image: nothing tells the classes apart.
    images = made.train.dataset.images  # type: ignore[attr-defined]
    black = np.zeros(images.pixels.shape, dtype=np.uint8)
    object.__setattr__(images, "pixels", black)
    assert first.overfit(at, made).verdict == "fail"
    del images.__dict__["pixels"]


def test_batches_are_learned_without_augmentation_dropout_and_smoothing(manifest: Manifest, cache: Path) -> None:
    at = bench_of("finetune", manifest, cache, label_smoothing=0.3, dropout=0.5)
    made = at.bare().ready()
    assert made.train is not None and made.training is not None
    assert made.train.dataset.transform is None  # type: ignore[attr-defined]
    assert made.training.recipe.smoothing == 0 and made.training.recipe.mix is None
    assert {m.p for m in made.training.modules() if isinstance(m, torch.nn.Dropout)} <= {0.0}


def test_a_rate_far_off_is_seen(manifest: Manifest, cache: Path) -> None:
    at = bench_of("cnn", manifest, cache)
    made = at.ready()
    _, rate = first.find_rate(at, made)
    assert made.training is not None
    settings = made.training.recipe.optimiser
    for factor, word in ((1 / 50, "too low"), (50.0, "too high")):
        asked = dataclasses.replace(settings, rate=rate * factor)
        made.training.recipe = dataclasses.replace(made.training.recipe, optimiser=asked)
        step, found = first.find_rate(at, made)
        assert (step.verdict, found) == ("warn", rate)
        assert word in step.advice and f"{rate:.2g}" in step.advice


def rows(*values: tuple[float, float, float]) -> list[dict[str, Any]]:
    """(training loss, validation loss, validation accuracy) an epoch."""
    return [
        {"epoch": i + 1, "train_loss": t, "val_loss": v, "train_accuracy": a, "val_accuracy": a}
        for i, (t, v, a) in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("curve", "verdict", "seen", "advice"),
    [
        (rows((2.0, 2.0, 0.3), (1.0, 1.2, 0.6), (0.9, 1.19, 0.6)), "pass", "Levelled off", ""),
        (rows((2.0, 2.0, 0.3), (1.0, 1.0, 0.6), (0.2, 1.5, 0.6)), "warn", "Overfits", "Regularise, augment"),
        (rows((2.0, 3.5, 0.3), (1.0, 3.41, 0.6), (0.6, 3.4, 0.6)), "warn", "far above training loss", "Regularise"),
        (rows((2.0, 2.0, 0.3), (1.5, 1.5, 0.5), (1.0, 1.0, 0.6)), "warn", "Not finished", "Train longer"),
        (rows((2.3, 2.3, 0.3), (1.9, 1.9, 0.3), (1.88, 1.89, 0.3)), "warn", "Underfits", "larger model"),
        (rows((2.3, 2.3, 0.1), (2.29, 2.29, 0.1), (2.28, 2.29, 0.1)), "fail", "Hardly learns", "rate is too low"),
        (rows((2.3, 2.3, 0.1), (2.9, 2.9, 0.1)), "fail", "Does not learn", "Lower the rate"),
        ([], "fail", "Every run diverged", "Lower the rate"),
    ],
)
def test_curves_are_read(curve: list[dict[str, Any]], verdict: str, seen: str, advice: str) -> None:
    step = grid.read_curve(curve, math.log(10))
    assert step.verdict == verdict
    assert seen in step.seen
    assert advice in step.advice


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Runs that are made up, best at rate 1e-2 without decay, and diverge above 1; the settings that were asked for."""
    asked: list[tuple[float, float]] = []

    def short_run(at: Bench, rate: float, decay: float) -> list[dict[str, Any]]:
        asked.append((rate, decay))
        accuracy = 0.9 - 0.1 * abs(math.log10(rate) + 2) - (0.01 if decay else 0.0)
        return [] if rate > 1 else rows((1.0, 1.0, accuracy), (0.5, 1.0, accuracy))

    monkeypatch.setattr(grid, "_short_run", short_run)
    return asked


def grids(at: Bench, rate: float, **changes: Any) -> list[Step]:
    wanted = how(grid_rates=[0.1, 1.0, 10.0], grid_decays=[0.0, 1.0], **changes)
    return grid.search(dataclasses.replace(at, how=wanted), rate)[:-1]


def test_a_grid_is_refined_about_its_best(manifest: Manifest, cache: Path, runs: list[tuple[float, float]]) -> None:
    coarse, finer = grids(bench_of("cnn", manifest, cache), 0.02, rounds=2)
    assert (coarse.verdict, coarse.marks) == ("pass", {"rate": 0.02})
    assert runs[:6] == [(r, d) for r in (0.02 * 0.1, 0.02, 0.02 * 10) for d in (0.0, 0.0005)]
    assert [r for r, _ in runs[6:]] == pytest.approx([0.02 / math.sqrt(10), 0.02 * math.sqrt(10)])
    assert {d for _, d in runs[6:]} == {0.0}
    assert finer.marks["rate"] == pytest.approx(0.02 / math.sqrt(10))
    assert "9 validation images" in finer.seen


def test_a_best_rate_at_the_edge_moves_the_grid(
    manifest: Manifest, cache: Path, runs: list[tuple[float, float]]
) -> None:
    steps = grids(bench_of("cnn", manifest, cache), 1e-4, rounds=3)
    assert [s.verdict for s in steps] == ["warn", "warn", "pass"]
    assert "highest that was tried" in steps[0].advice
    assert [s.marks["rate"] for s in steps] == pytest.approx([1e-3, 1e-2, 1e-2])
    assert len(runs) == len(set(runs)) == 6 + 1 + 1, "what was run is not run again"


def test_runs_that_diverge_have_no_value(manifest: Manifest, cache: Path, runs: list[tuple[float, float]]) -> None:
    (step,) = grids(bench_of("cnn", manifest, cache), 0.3, rounds=1)
    assert step.curve["val_accuracy"][-2:] == [None, None]
    (step,) = grids(bench_of("cnn", manifest, cache), 1e3, rounds=3)
    assert (step.verdict, step.advice) == ("fail", "Lower the rate.")
    assert runs


def test_a_run_that_diverges_ends_and_leaves_nothing(manifest: Manifest, cache: Path) -> None:
    at = bench_of("cnn", manifest, cache, clip=0.0)
    assert grid._short_run(at, 1e30, 0.0) == []


def test_without_validation_images_it_says_so(manifest: Manifest, cache: Path) -> None:
    splits = np.where(manifest.splits == "val", "train", manifest.splits)
    at = bench_of("fc", dataclasses.replace(manifest, splits=splits), cache)
    step, curve = grid.search(dataclasses.replace(at, how=how(grid_decays=[0.0])), 0.01)
    assert step.verdict == "warn" and "training loss alone" in step.seen and "val_share" in step.advice
    assert curve.curve["val_loss"] == [None]


def test_what_trains_nothing_is_refused_and_no_labels_are_said(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    weights = world.weights(names=(*world.CLASSES, "x", "y", "z"))
    with pytest.raises(UserError, match="trains nothing"):
        check("direct", manifest, weights, world.params(scale=64, size=64), how(), cache=cache)
    bare = dataclasses.replace(manifest, labels=np.full(len(manifest), "", dtype="U1"))
    steps = check("cnn", bare, weights, world.params(), how(), cache=cache)
    assert write("cnn", steps, tmp_path) == {"strategy": "cnn", "skipped": "no labels"}
    assert json.loads((tmp_path / "curves.json").read_text()) == read(tmp_path) == []
