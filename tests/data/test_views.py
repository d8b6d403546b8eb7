"""Views: sizes by the definition, pixels against Pillow applied the plain way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from pipeline.data import views


def picture(width: int, height: int) -> views.Pixels:
    small = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_the_shorter_side_becomes_the_scale(width: int, height: int, scale: int) -> None:
    w, h = views.scaled_size(width, height, scale)
    assert min(w, h) == scale
    assert abs(max(w, h) - max(width, height) * scale / min(width, height)) <= 0.5


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (64, 64), (40, 30), (65, 64), (301, 299)])
def test_crop_is_the_middle_of_the_resized_image(width: int, height: int) -> None:
    image = picture(width, height)
    (made,) = views.make(image, view="crop", crop=64, scales=[96], flip=False)
    w, h = views.scaled_size(width, height, 96)
    whole = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    left, top = (w - 64) // 2, (h - 64) // 2
    expected = np.asarray(whole.crop((left, top, left + 64, top + 64)))
    # Resampling only the crop rounds ties otherwise, in each of its two passes.
    assert np.abs(made.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("scale", [75, 300])
def test_crop_is_torchvisions_where_its_geometry_is_the_same(scale: int) -> None:
    """4:3 images have whole sides at these scales and even margins; elsewhere torchvision truncates and halves."""
    image = picture(500, 375)
    crop = scale - scale % 2 - 8
    (made,) = views.make(image, view="crop", crop=crop, scales=[scale], flip=False)
    resized = transforms.resize(Image.fromarray(image), [scale], InterpolationMode.BILINEAR)
    expected = np.asarray(transforms.center_crop(resized, [crop, crop]))
    assert np.abs(made.astype(int) - expected).max() <= 2
    assert np.abs(made.astype(int) - expected).mean() < 0.05


def test_squash_and_mirror_are_torchvisions() -> None:
    image = picture(90, 70)
    squashed, mirrored = views.make(image, view="squash", crop=32, scales=[32], flip=True)
    expected = transforms.resize(Image.fromarray(image), [32, 32], InterpolationMode.BILINEAR)
    assert np.array_equal(squashed, expected)
    assert np.array_equal(mirrored, transforms.hflip(expected))


def test_whole_and_squash() -> None:
    image = picture(80, 40)
    small, large = views.make(image, view="whole", crop=None, scales=[20, 60], flip=False)
    assert small.shape == (20, 40, 3) and large.shape == (60, 120, 3)
    (squashed,) = views.make(image, view="squash", crop=32, scales=[32], flip=False)
    assert np.array_equal(squashed, Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))


def test_each_scale_is_followed_by_its_mirror_image() -> None:
    a, a_mirrored, b, b_mirrored = views.make(picture(90, 70), view="crop", crop=32, scales=[32, 48], flip=True)
    assert np.array_equal(a[:, ::-1], a_mirrored) and np.array_equal(b[:, ::-1], b_mirrored)
    assert not np.array_equal(a, b)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = picture(64, 64)
    (made,) = views.make(image, view="crop", crop=64, scales=[64], flip=False)
    assert np.array_equal(made, image)
