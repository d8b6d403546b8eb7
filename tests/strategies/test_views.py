"""Cached augmented views of a frozen part: the codes are those of the views, and the frozen part runs once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.strategies.augment import image_transform
from pipeline.strategies.batches import CodeRows, PixelRows
from pipeline.strategies.model import Classifier, autocast
from pipeline.strategies.predict import probabilities
from pipeline.strategies.prepared import Place, Prepared, place_of, prepared
from pipeline.strategies.run import run_strategy
from pipeline.strategies.sets import sets_of
from tests.strategies import world

pytestmark = pytest.mark.network

VIEWS = 2


def ready(manifest: Manifest, cache: Path, **changes: object) -> tuple[Place, Prepared]:
    params = world.params(views=VIEWS, test_views=1 + VIEWS, **changes)
    place = place_of("frozen_augmented", manifest, world.weights(), params, cache)
    sets = [sets_of(manifest, place.images, r, max_train=0, seed=params.seed) for r in range(2)]
    return place, prepared(place, sets, 0)


def code_rows(rows: object) -> CodeRows:
    assert isinstance(rows, CodeRows)
    return rows


def test_the_codes_are_the_bodys_of_each_view(manifest: Manifest, cache: Path) -> None:
    place, made = ready(manifest, cache)
    assert made.train is not None
    rows, model = code_rows(made.train.dataset), made.ready.model.eval()
    picked = manifest.rows("train", 0)[:5]
    targets = np.zeros(5, dtype=np.int64)
    ids = [str(i) for i in manifest.ids[picked]]
    for view in range(1 + VIEWS):
        transform = image_transform(["flip"], place.params) if view else None
        pixels = PixelRows(place.images, picked, ids, targets, size=32, transform=transform, seed=place.params.seed)
        shown = pixels.__getitems__([(view, i) for i in range(5)])[0]
        with torch.inference_mode(), autocast("cpu", place.precision):
            wanted = model.body(model.normalise(shown)).float().numpy()
        np.testing.assert_allclose(rows.codes[view, rows.at[:5]], wanted, rtol=1e-4, atol=1e-5)


def test_training_draws_a_view_an_epoch_and_validation_sees_the_centre(manifest: Manifest, cache: Path) -> None:
    _, made = ready(manifest, cache)
    assert made.train is not None and made.val is not None
    rows = code_rows(made.train.dataset)
    drawn = np.array([[rows._view_of(epoch, i) for i in range(len(rows))] for epoch in range(20)])
    assert set(np.unique(drawn)) == {1, 2}
    assert all(len(set(column)) == 2 for column in drawn.T)
    shown, _ = rows.__getitems__([(3, 0), (3, 1)])
    np.testing.assert_array_equal(shown[1].numpy(), rows.codes[drawn[3, 1], rows.at[1]])
    assert code_rows(made.val.dataset).view == 0


def test_the_answers_are_the_mean_over_the_cached_views(manifest: Manifest, cache: Path) -> None:
    _, made = ready(manifest, cache)
    rows, model = code_rows(made.test), made.ready.model.eval()
    found = probabilities(model, rows, views=1 + VIEWS, batch_size=4, device="cpu", precision="fp32")
    with torch.inference_mode():
        each = [model.top(torch.from_numpy(rows.codes[v, rows.at])).softmax(dim=1).numpy() for v in range(1 + VIEWS)]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5, atol=1e-6)
    assert rows.view is None


def test_the_frozen_part_runs_once(
    manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(manifest, cache)

    def refuse(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the frozen part ran again")

    monkeypatch.setattr("pipeline.strategies.model.TrunkClassifier.body", refuse)
    params = world.params(views=VIEWS, test_views=1 + VIEWS, repeats=2)
    result = run_strategy("frozen_augmented", manifest, world.weights(), params, tmp_path, cache=cache)
    assert [r["epochs"] for r in result["repeats"]] == [2, 2]


def test_what_views_cannot_do_is_refused(manifest: Manifest, cache: Path) -> None:
    with pytest.raises(UserError, match="test_views 4 is more than the 2"):
        world.params(views=2, test_views=4)
    mixing = {"frozen_augmented": {"kind": "frozen", "augment": ["flip", "mixup"]}}
    with pytest.raises(UserError, match=r"frozen_augmented has mixup, which mix pixels.*finetune\.image\.views 0"):
        ready(manifest, cache, strategies=world.PARAMS["strategies"] | mixing)
