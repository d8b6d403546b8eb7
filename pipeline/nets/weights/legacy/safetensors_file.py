"""Reads .safetensors that are not canonical: a state dict in torchvision's layout, timm's, or under canonical names."""

from __future__ import annotations

from pathlib import Path

from pipeline.base.budget import Budget
from pipeline.nets.weights.preprocessings import TORCHVISION
from pipeline.nets.weights.record import read_safetensors
from pipeline.nets.weights.state_dict import StateDict


def read(path: Path) -> StateDict:
    """The weights in a file.

    Raises UserError if it is missing, cut short, not safetensors, or asks for more than its length allows.
    """
    _, tensors = read_safetensors(path)
    return StateDict.of(tensors, TORCHVISION, Budget(path, path.stat().st_size))
