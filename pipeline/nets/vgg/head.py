"""VGG's own classifier, for other classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VggHead(nn.Module):
    """fc6 and fc7, each with ReLU and dropout, then fc8, on the map in C, H, W order (Simonyan and Zisserman 2015)."""

    def __init__(self, inputs: int, widths: Sequence[int], k: int, *, dropout: float) -> None:
        super().__init__()
        self.codes_dim = inputs
        self.widths = (widths[0], widths[1])
        self.dropout = nn.Dropout(dropout)
        self.fc6 = nn.Linear(inputs, widths[0])
        self.fc7 = nn.Linear(widths[0], widths[1])
        self.fc8 = nn.Linear(widths[1], k)

    def codes(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)

    def logits(self, codes: Tensor) -> Tensor:
        x = self.dropout(torch.relu(self.fc6(codes)))
        x = self.dropout(torch.relu(self.fc7(x)))
        return self.fc8(x)  # type: ignore[no-any-return]
