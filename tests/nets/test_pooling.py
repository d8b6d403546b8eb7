"""Every pooling against numpy, and its stated dim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.config import POOLINGS as NAMES
from pipeline.nets.backbone import Layer
from pipeline.nets.pooling import POOLINGS, dim, l2_normalise, pooled, soft

Map = NDArray[np.float64]


def spp(x: Map) -> Map:
    rows = []
    for n in (1, 2, 4):
        h, w = x.shape[1:]
        for c in range(len(x)):
            for i in range(n):
                for j in range(n):
                    bin_rows = slice(i * h // n, math.ceil((i + 1) * h / n))
                    rows.append(x[c, bin_rows, slice(j * w // n, math.ceil((j + 1) * w / n))].max())
    return np.array(rows)


ORACLES = {
    "flatten": lambda x: x.reshape(-1),
    "avg": lambda x: x.mean(axis=(1, 2)),
    "max": lambda x: x.max(axis=(1, 2)),
    "spp": spp,
    "gem": lambda x: (np.maximum(x, 1e-6) ** 3).mean(axis=(1, 2)) ** (1 / 3),
}


def test_the_names_are_those_of_params() -> None:
    assert set(POOLINGS) == set(NAMES)
    assert {name for name, pooling in POOLINGS.items() if not pooling.of_tokens} == set(ORACLES)


def test_tokens_are_pooled_as_the_map_of_their_patches() -> None:
    tokens = torch.randn(2, 1 + 2 * 3, 5, generator=torch.Generator().manual_seed(0))
    layer = Layer("x", "block", 5, None, None, tokens=True, prefix=1)
    maps = tokens[:, 1:].transpose(1, 2).reshape(2, 5, 2, 3)
    for name, pooling in POOLINGS.items():
        rows = pooled(name, tokens, layer, height=20, width=30)
        if name == "cls":
            expected = tokens[:, 0]
        else:
            expected = POOLINGS["avg" if name == "patchavg" else name].apply(maps)
        assert torch.allclose(rows, expected, atol=1e-6), name
        assert rows.shape[1] == dim(name, layer, (7, 5), height=20, width=30)
        assert pooling.of_tokens == (name in ("cls", "patchavg"))


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5, 7, 6), (2, 4, 3, 3), (1, 6, 1, 1)])
def test_against_numpy(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().to(dtype)
    rows = POOLINGS[name].apply(maps.contiguous(memory_format=torch.channels_last))
    expected = np.stack([ORACLES[name](x) for x in maps.double().numpy()])
    assert rows.dtype == torch.float32 and rows.shape == expected.shape
    assert rows.shape[1] == POOLINGS[name].dim(*shape[1:])
    np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_soft_codes_are_the_logistic_function_whatever_the_value() -> None:
    values = [-1e30, -100.0, -1.5, 0.0, 0.25, 3.0, 100.0, 1e30]
    rows = soft(torch.tensor([values]))
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows[0], expit(np.array(values)), rtol=1e-6, atol=1e-30)
    half = rows.to(torch.float16)
    assert half.isfinite().all() and half[0, 3] == 0.5 and half[0, 0] == 0 and half[0, -1] == 1


def test_l2_leaves_zeros() -> None:
    rows = l2_normalise(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert torch.allclose(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
