"""Augmentation: sizes, reproducibility, and mixtures whose labels say what was mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.strategies import augment
from pipeline.strategies.batches import EpochSampler, PixelRows, loader, steps_of
from pipeline.strategies.images import CachedView, cached
from tests.strategies.world import params

PARAMS = params(size=16, noise=20.0, mix_alpha=1.0)


@pytest.mark.parametrize("name", augment.AUGMENTS)
def test_each_changes_a_picture_and_gives_the_size(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8, generator=generator)
    transform = augment.image_transform([name], PARAMS)
    made = []
    for seed in (*range(12), 0):
        torch.default_generator.manual_seed(seed)
        made.append(transform(image))
    assert all(m.shape == (3, 16, 16) and m.dtype == torch.uint8 for m in made)
    assert torch.equal(made[0], made[-1]), "the same seed gives the same picture"
    assert any(not torch.equal(m, augment.centre(image, 16)) for m in made)


def test_names_that_exclude_each_other() -> None:
    with pytest.raises(UserError, match="crop and resized_crop"):
        augment.image_transform(["crop", "resized_crop"], PARAMS)
    with pytest.raises(UserError, match="autoaugment and randaugment"):
        augment.image_transform(["randaugment", "autoaugment"], PARAMS)


def test_mixup_labels_are_the_images_weights() -> None:
    mix = augment.batch_mix(["mixup"], PARAMS)
    assert mix is not None
    images = torch.stack([torch.full((3, 4, 4), float(v)) for v in (0, 1, 10, 100)])
    labels = torch.eye(4)
    torch.manual_seed(5)
    mixed, soft = mix(images, labels)
    share = float(soft[0, 0])
    assert 0 < share < 1
    before = images.roll(1, 0)
    torch.testing.assert_close(mixed, share * images + (1 - share) * before)
    torch.testing.assert_close(soft, share * labels + (1 - share) * labels.roll(1, 0))


def test_cutmix_labels_are_the_shares_of_the_area() -> None:
    mix = augment.batch_mix(["cutmix"], PARAMS)
    assert mix is not None
    images = torch.stack([torch.full((3, 32, 32), float(v)) for v in range(4)])
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, soft = mix(images, torch.eye(4))
        for i in range(4):
            own = float((mixed[i, 0] == i).float().mean())
            assert float(soft[i, i]) == pytest.approx(own, abs=1e-5)
            assert float(soft[i].sum()) == pytest.approx(1)


def test_no_mix_is_none() -> None:
    assert augment.batch_mix(["flip"], PARAMS) is None


def rows_of(manifest: Manifest, images, size: int, transform) -> PixelRows:  # type: ignore[no-untyped-def]
    rows = np.arange(11)
    ids = [str(i) for i in manifest.ids[rows]]
    return PixelRows(images, rows, ids, manifest.targets[rows], size=size, transform=transform, seed=4)


def test_an_images_picture_depends_on_its_epoch_and_id_alone(manifest: Manifest, cache) -> None:  # type: ignore[no-untyped-def]
    images = cached(manifest, CachedView("crop", 36, (255, 255, 255)), cache)
    rows = rows_of(manifest, images, 32, augment.image_transform(["crop", "colour"], PARAMS))
    alone, _ = rows.__getitems__([(3, 7)])
    torch.rand(100)
    among, _ = rows.__getitems__([(3, 2), (3, 7), (4, 7)])
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[1], among[2])


def test_batches_hold_the_cached_centre_and_its_class(manifest: Manifest, cache) -> None:  # type: ignore[no-untyped-def]
    images = cached(manifest, CachedView("crop", 36, (255, 255, 255)), cache)
    rows = rows_of(manifest, images, 32, None)
    batch, targets = next(iter(loader(rows, 4)))
    assert targets.tolist() == manifest.targets[:4].tolist()
    # Class red has more red, and so on: the pixels are the row's own.
    assert batch.float().mean(dim=(2, 3)).argmax(dim=1).tolist() == [2 - int(t) for t in targets]
    assert torch.equal(batch[1], torch.from_numpy(images.pixels[images.at[1:2]][0, 2:34, 2:34]).permute(2, 0, 1))


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    def order(epoch: int, n: int = 12) -> list[int]:
        sampler = EpochSampler(n, 4, 9)
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(sampler) == len(found)
        assert {e for e, _ in found} == {epoch}
        return [i for _, i in found]

    assert sorted(order(0)) == list(range(12))
    assert order(0) == order(0) != order(1)
    assert len(order(0, n=13)) == 12, "a last batch of one image is left out"
    assert len(set(order(0, n=14))) == 14
    assert [steps_of(n, 4, 1).per_epoch for n in (1, 4, 5, 6, 9)] == [1, 1, 1, 2, 2]
