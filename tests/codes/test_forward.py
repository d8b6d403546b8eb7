"""The engine against torchvision and against itself: other companions, positions, memory and precisions."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from scipy.special import expit
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.codes.forward import Forward
from pipeline.codes.loading import Batch
from pipeline.codes.settings import Normalisation, Settings, resolve
from pipeline.hashing.sigmoid import Sigmoid
from pipeline.nets.pooling import soft
from pipeline.nets.weights import Weights
from tests.codes.conftest import make_params

pytestmark = pytest.mark.network

RNG = np.random.default_rng(0)


def settings_of(weights: Weights, **changes: Any) -> dict[str, Settings]:
    p = weights.preprocessing
    norm = Normalisation(channels=p.channels, scale=p.scale, mean=p.mean, std=p.std)
    return resolve(make_params(**changes), arch=weights.arch, weights_sha256=weights.sha256, normalisation=norm)


def run(weights: Weights, images: np.ndarray, **changes: Any) -> dict[str, np.ndarray]:
    """(n, H, W, 3) -> rows of every spec."""
    forward = Forward(weights, list(settings_of(weights, **changes).values()))
    return forward.launch(Batch([], [images[None, :, None]]))().rows


def pictures(n: int, side: int = 64) -> np.ndarray:
    return RNG.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def torchvision_maps(weights: Weights, images: np.ndarray) -> dict[str, Tensor]:
    """The plain way: float32 NCHW through a torchvision-style Sequential with the same tensors, ReLU not in place."""
    p = weights.preprocessing
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    x = x.flip(1) if p.channels == "bgr" else x
    x = (x * p.scale - torch.tensor(p.mean).view(1, 3, 1, 1)) / torch.tensor(p.std).view(1, 3, 1, 1)
    channels = [4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 12, 12, 12, "M", 16, 16, 16, "M"]
    features = torchvision.models.vgg.make_layers(channels)
    convs = [m for m in features if isinstance(m, torch.nn.Conv2d)]
    names = [n.removesuffix(".weight") for n in weights.tensors if n.startswith("conv") and n.endswith(".weight")]
    maps = {}
    with torch.inference_mode():
        for conv, name in zip(convs, names, strict=True):
            conv.weight.copy_(weights.tensors[f"{name}.weight"])
            conv.bias.copy_(weights.tensors[f"{name}.bias"])
        pools = iter(range(1, 6))
        for module in features:
            x = torch.relu(x) if isinstance(module, torch.nn.ReLU) else module(x)
            if isinstance(module, torch.nn.ReLU):
                maps[names[len([m for m in maps if m.startswith("conv")])]] = x
            elif isinstance(module, torch.nn.MaxPool2d):
                maps[f"pool{next(pools)}"] = x
        for name in ("fc6", "fc7", "fc8"):
            x = torch.nn.functional.linear(
                x.flatten(1), weights.tensors[f"{name}.weight"], weights.tensors[f"{name}.bias"]
            )
            x = torch.relu(x) if name != "fc8" else x
            maps[name] = x[:, :, None, None]
        maps["prob"] = torch.softmax(x, dim=1)[:, :, None, None]
    return maps


def test_all_layers_equal_torchvisions(weights: Weights) -> None:
    images = pictures(3)
    maps = torchvision_maps(weights, images)
    rows = run(weights, images, layers=[f"{name}-flatten" for name in maps], precision="fp32")
    assert len(rows) == 13 + 5 + 4
    for name, expected in maps.items():
        got, want = rows[f"{name}-flatten"], expected.flatten(1).numpy()
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want), name


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 2.5e-2), ("fp16", 3e-3)])
def test_low_precision_is_close(weights: Weights, precision: str, bound: float) -> None:
    images = pictures(4)
    specs = ["conv3_3-avg", "pool5-flatten", "conv5_3-gem"]
    # Noise through a few channels averages less out than pictures through VGG-16's, where bf16 stays below 1e-2.
    exact, low = (run(weights, images, layers=specs, precision=p) for p in ("fp32", precision))
    for spec in specs:
        error = np.linalg.norm(low[spec] - exact[spec]) / np.linalg.norm(exact[spec])
        assert 0 < error < bound, (spec, error)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_does_not_depend_on_its_companions(weights: Weights, precision: str) -> None:
    specs = ["conv1_1-avg", "conv3_3-spp", "pool5-flatten", "conv5_2-gem-l2", "fc7-avg", "prob-flatten"]
    images = pictures(8)
    first = run(weights, images, layers=specs, precision=precision)
    order = RNG.permutation(8)
    moved = run(weights, images[order], layers=specs, precision=precision)
    lonely = np.zeros_like(images)
    lonely[5] = images[2]
    alone = run(weights, lonely, layers=specs, precision=precision)
    fewer = run(weights, images, layers=["conv3_3-spp"], precision=precision)
    for spec in specs:
        assert first[spec][order].tobytes() == moved[spec].tobytes(), spec
        assert first[spec][2].tobytes() == alone[spec][5].tobytes(), spec
    assert first["conv3_3-spp"].tobytes() == fewer["conv3_3-spp"].tobytes()


def test_normalisation_is_the_preprocessings(weights: Weights) -> None:
    settings = next(iter(settings_of(weights, precision="fp32").values()))
    norm = Normalisation(channels="bgr", scale=0.5, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    forward = Forward(weights, [settings.model_copy(update={"normalisation": norm})])
    image = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)  # R, G, B
    expected = [(15 - 1) / 4, (10 - 2) / 5, (5 - 3) / 6]
    assert torch.allclose(forward.normalised(image).flatten(), torch.tensor(expected))


def test_views_are_averaged_or_stacked(weights: Weights) -> None:
    views = RNG.integers(0, 256, (2, 3, 2, 64, 64, 3), dtype=np.uint8)  # scales, images, mirrored
    flat = run(weights, views.reshape(12, 64, 64, 3), layers=["pool5-avg"])["pool5-avg"].reshape(2, 3, 2, -1)
    for combine, rows in (
        ("average", flat.mean(axis=(0, 2))),
        ("stack", np.concatenate([flat[0].mean(axis=1), flat[1].mean(axis=1)], axis=1)),
    ):
        settings = settings_of(weights, layers=["pool5-avg-l2"], scales=[64, 80], flip=True, combine=combine)
        got = Forward(weights, list(settings.values())).launch(Batch([], [views]))().rows["pool5-avg-l2"]
        expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_soft_codes_are_of_what_the_views_gave_together(weights: Weights, dtype: str) -> None:
    views = RNG.integers(0, 256, (2, 3, 2, 64, 64, 3), dtype=np.uint8)  # scales, images, mirrored
    specs = ["pool5-flatten", "pool5-flatten-sigmoid", "pool5-flatten-sigmoid-l2"]
    settings = settings_of(weights, layers=specs, scales=[64, 80], flip=True, dtype=dtype, precision="fp32")
    rows = Forward(weights, list(settings.values())).launch(Batch([], [views]))().rows
    expected = expit(rows["pool5-flatten"].astype(np.float64))
    step = 1e-6 if dtype == "float32" else 1e-3
    np.testing.assert_allclose(rows[specs[1]], expected, atol=step)
    np.testing.assert_allclose(rows[specs[2]], expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=step)


def test_the_hasher_sigmoid_cuts_soft_codes_in_their_middle(weights: Weights) -> None:
    """After a ReLU soft codes are in [0.5, 1]: (s - 0.5) / 0.5 >= 0.5 is s >= 0.75."""
    specs = ["pool5-flatten", "pool5-flatten-sigmoid"]
    rows = run(weights, pictures(8), layers=specs, dtype="float32", precision="fp32")
    scaled = 4 * rows["pool5-flatten"] / rows["pool5-flatten"].max()  # random weights give small values
    bits = Sigmoid().fit(scaled).bits(scaled)
    assert rows["pool5-flatten-sigmoid"].min() >= 0.5
    assert 0.02 < bits.mean() < 0.98 and np.array_equal(bits, soft(torch.from_numpy(scaled)).numpy() >= 0.75)


def test_running_out_of_memory_halves_the_batch(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = pictures(8)
    whole = run(weights, images)["pool5-flatten"]
    sizes: list[int] = []
    normalised = Forward.normalised

    def small_memory(self: Forward, batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return normalised(self, batch)

    monkeypatch.setattr(Forward, "normalised", small_memory)
    forward = Forward(weights, list(settings_of(weights).values()))
    batch = Batch([], [images[None, :, None]])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rows = forward.launch(batch)().rows["pool5-flatten"]
            np.testing.assert_allclose(rows, whole, rtol=1e-4, atol=1e-5)
    assert sizes == [8, 4, 2, 2, 2, 2] + [2] * 4 and forward.limit == 2
    assert "going on with 2 inputs" in caplog.text


def test_one_image_that_does_not_fit_is_refused(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(self: Forward, batch: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Forward, "normalised", no_memory)
    with pytest.raises(UserError, match="one input of 64 x 64 pixels does not fit"):
        run(weights, pictures(4))


def test_other_weights_are_refused(weights: Weights) -> None:
    settings = next(iter(settings_of(weights).values()))
    with pytest.raises(UserError, match="not the weights that made the codes"):
        Forward(weights, [settings.model_copy(update={"weights_sha256": "0" * 64})])
