"""From the pixels of an image to its scores as one module, with all that lies between."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.base.errors import UserError
from pipeline.codes.settings import Settings
from pipeline.heads.base import LinearHead
from pipeline.heads.model import Model
from pipeline.heads.scaling import Scaling
from pipeline.nets import backbone
from pipeline.nets.pooling import l2_normalise, pooled, soft
from pipeline.nets.weights import Weights
from pipeline.strategies.model import Classifier, Normalise


class HeadNetwork(nn.Module):
    """A linear head on codes. (N, size, size, 3) uint8 RGB -> scores (N, k), and probabilities (N, k) of a softmax.

    Codes are rounded to the precision that they are kept in, since the head was trained on such.
    """

    def __init__(self, model: Model, settings: Settings, weights: Weights) -> None:
        """Raises UserError if the head is no linear one, or an image has several sizes."""
        super().__init__()
        if not isinstance(model.head, LinearHead):
            raise UserError(
                f"a {model.name} head needs all of its training images' codes, and is not exported",
                allowed="a linear head (svm, softmax), or a tuned network",
            )
        if settings.crop is None or len(settings.scales) > 1:
            what = "images whole" if settings.crop is None else f"images at {len(settings.scales)} scales"
            raise UserError(
                f"this head's codes are of {what}, and an exported model takes one square of one size",
                allowed="codes.image.view crop or squash, with one of codes.image.scales",
            )
        self.settings = settings
        self.probabilities = model.head.probabilities
        network = backbone.of(weights)
        self.normalise = Normalise(network.preprocessing)
        self.trunk = network.trunk(settings.layer).plain()
        self.layer = network.about.require(settings.layer)
        self.scale = Scale(model.scaling)
        k = len(model.classes)
        self.linear = nn.Linear(model.dim, k)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(model.head.weights.T)))
            self.linear.bias.copy_(torch.from_numpy(np.array(model.head.intercepts)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pixels = image.permute(0, 3, 1, 2)
        rows = self._rows(pixels)
        if self.settings.flip:
            rows = (rows + self._rows(pixels.flip(3))) / 2
        if self.settings.sigmoid:
            rows = soft(rows)
        if self.settings.l2:
            rows = l2_normalise(rows)
        if self.settings.dtype == "float16":
            rows = rows.half().float()
        scores = self.linear(self.scale(rows))
        return (scores, scores.softmax(dim=1)) if self.probabilities else (scores,)

    def _rows(self, pixels: Tensor) -> Tensor:
        value = self.trunk(self.normalise(pixels))
        side = self.settings.crop or 0
        return pooled(self.settings.pooling, value, self.layer, height=side, width=side)


class TunedNetwork(nn.Module):
    """A network that a strategy trained, with the same input and outputs. `probabilities`: whether it has them."""

    def __init__(self, model: Classifier, *, probabilities: bool) -> None:
        super().__init__()
        self.model = model
        self.probabilities = probabilities

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        scores = self.model(image.permute(0, 3, 1, 2))
        return (scores, scores.softmax(dim=1)) if self.probabilities else (scores,)


class Scale(nn.Module):
    """`heads.scaling.Scaling` in torch."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        self.kind = scaling.kind
        self.shift: Tensor
        self.factor: Tensor
        if self.kind == "standardise":  # torch can't store the empty ones of the others
            self.register_buffer("shift", torch.from_numpy(np.array(scaling.shift)))
            self.register_buffer("factor", torch.from_numpy(np.array(scaling.factor)))

    def forward(self, rows: Tensor) -> Tensor:
        if self.kind == "l2":
            return l2_normalise(rows)
        return (rows - self.shift) * self.factor if self.kind == "standardise" else rows
