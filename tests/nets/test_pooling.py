"""Every pooling against numpy, and its stated dim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.config import POOLINGS as NAMES
from pipeline.nets.pooling import POOLINGS, l2_normalise, soft

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
    assert set(POOLINGS) == set(NAMES) == set(ORACLES)


@pytest.mark.parametrize("name", POOLINGS)
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
