"""Weights small enough for every test."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.nets.weights import random


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> dict[str, Tensor]:
    """Canonical tensors of tinyvgg with 5 classes and biases that differ."""
    tensors = random.tensors("tinyvgg", 0, num_classes=5)
    g = torch.Generator().manual_seed(0)
    return {k: t if t.ndim > 1 else torch.rand(t.shape, generator=g) - 0.5 for k, t in tensors.items()}
