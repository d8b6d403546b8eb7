"""Each step of the procedure passes where it should and fails where something is made wrong."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.manifest import Manifest
from pipeline.errors import UserError
from pipeline.finetune import sanity
from pipeline.finetune.prepared import Place, Prepared, place_of, prepared
from pipeline.finetune.sets import sets_of
from tests.finetune import world


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanity, "_OVERFIT_STEPS", 60)
    monkeypatch.setattr(sanity, "_SWEEP", (1e-5, 10.0, 13))


def made_of(name: str, manifest: Manifest, cache: Path) -> tuple[Place, Prepared]:
    place = place_of(name, manifest, world.weights(), world.params(), cache)
    return place, prepared(place, [sets_of(manifest, place.images, 0, max_train=0, seed=0)], 0)


def test_a_sound_strategy_passes(manifest: Manifest, cache: Path) -> None:
    steps = sanity.check("cnn", manifest, world.weights(), world.params(), cache=cache, epochs=1)
    assert [s.name for s in steps] == [
        "initial loss",
        "overfit a handful of batches",
        "learning rate",
        "coarse grid",
        "curve",
    ]
    assert [s.verdict for s in steps[:2]] == ["pass", "pass"]
    assert "fail" not in {s.verdict for s in steps[:4]}
    assert len(steps[3].curve["rate"]) == 6
    for step in steps:
        assert len({len(v) for v in step.curve.values()}) <= 1
        assert step.verdict == "pass" or step.advice


def test_large_initial_values_are_seen(manifest: Manifest, cache: Path) -> None:
    place, made = made_of("cnn", manifest, cache)
    assert sanity.first_loss(place, made).seen.count(f"{math.log(3):.3f}")
    last = [m for m in made.ready.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(1000)
    assert sanity.first_loss(place, made).verdict == "fail"


def test_what_can_not_be_learned_by_heart_is_seen(manifest: Manifest, cache: Path) -> None:
    place, made = made_of("cnn", manifest, cache)
    assert made.training is not None
    before = {n: t.clone() for n, t in made.ready.model.canonical_state().items()}
    assert sanity.overfit(place, made).verdict == "pass"
    assert world.same(before, made.ready.model.canonical_state()), "a copy is trained"
    # One pixel for every image: nothing tells the classes apart.
    blank = np.zeros_like(place.images.pixels)
    object.__setattr__(made.train.dataset.images, "pixels", blank)  # type: ignore[union-attr,attr-defined]
    assert sanity.overfit(place, made).verdict == "fail"
    del made.train.dataset.images.__dict__["pixels"]  # type: ignore[union-attr,attr-defined]


def test_a_rate_far_off_is_seen(manifest: Manifest, cache: Path) -> None:
    place, made = made_of("cnn", manifest, cache)
    _, rate = sanity.find_rate(place, made)
    assert rate is not None
    assert made.training is not None
    settings = made.training.recipe.optimiser
    made.training.recipe = dataclasses.replace(
        made.training.recipe, optimiser=dataclasses.replace(settings, rate=rate / 50)
    )
    low, _ = sanity.find_rate(place, made)
    assert low.verdict == "warn"
    assert "too low" in low.advice


def test_what_trains_nothing_is_refused(manifest: Manifest, cache: Path) -> None:
    weights = world.weights(names=(*world.CLASSES, "x", "y", "z"))
    with pytest.raises(UserError, match="trains nothing"):
        sanity.check("direct", manifest, weights, world.params(scale=64, size=64), cache=cache)
