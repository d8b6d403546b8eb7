"""`random:<seed>`: untrained weights, for tests, for baselines, and to train from scratch."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts


def tensors(arch: str, seed: int, *, num_classes: int = facts.IMAGENET_CLASSES) -> dict[str, Tensor]:
    """Canonical tensors: normal with variance 2 / fan-in (He et al. 2015, equation 10), biases 0, norms the identity.

    Each tensor has a generator of its own, from seed and name, so a layer's weights don't depend on the others'.
    """
    return {name: _one(name, shape, seed) for name, shape in facts.tensor_shapes(arch, num_classes=num_classes).items()}


def seed_of(text: str) -> int:
    """The seed in `random:<seed>`'s second half. Raises UserError unless it is a number from 0."""
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"weights source 'random:{text}' has no seed", allowed="random:0, random:1, ...")
    return int(text)


def _one(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if len(shape) == 1:
        layer, part = name.split(".")
        ones = part == "running_var" or (layer.startswith("bn") and part == "weight")
        return torch.ones(shape) if ones else torch.zeros(shape)
    stream = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16], "big")
    fan_in = math.prod(shape[1:])
    values = np.random.Generator(np.random.PCG64(stream)).standard_normal(shape, dtype=np.float32)
    values *= np.float32(math.sqrt(2 / fan_in))
    return torch.from_numpy(values)
