"""A `weights` section of params.yaml -> weights, whatever their format was."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import WeightsParams
from pipeline.errors import UserError
from pipeline.nets import layers
from pipeline.nets.weights import random
from pipeline.nets.weights.preprocessings import TORCHVISION
from pipeline.nets.weights.record import Weights

READERS: dict[str, object] = {}


def resolve(params: WeightsParams, cache: Path) -> Weights:
    """The weights that `params` names."""
    layers.find(params.arch)
    kind, _, rest = params.source.partition(":")
    if kind == "random":
        seed = random.seed_of(rest)
        return Weights.make(params.arch, random.tensors(params.arch, seed), TORCHVISION, {"source": params.source})
    raise UserError(f"unknown weights source {params.source!r}", allowed="random:SEED")
