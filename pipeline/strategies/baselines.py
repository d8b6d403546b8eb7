"""Small networks trained from scratch, for comparison: what a target's own data gives without any transfer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from pipeline.nets.weights import Preprocessing
from pipeline.strategies.model import Classifier

# x / 255 standardised by ImageNet's mean and deviation, as torchvision's recipes have it.
PREPROCESSING = Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FC_SIDE = 32
_CNN_CHANNELS = (32, 64, 128)


@dataclass(frozen=True)
class Settings:
    """`widths` are the hidden layers of the fully connected net; `k` classes."""

    k: int
    widths: Sequence[int]
    dropout: float


class Shrink(nn.Module):
    """Images of any size -> 32 x 32 by averaging, so that a fully connected net stays small."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, _FC_SIDE)


def fully_connected(s: Settings) -> nn.Module:
    """32 x 32 x 3 -> `widths` with ReLU and dropout -> k."""
    steps: list[nn.Module] = [Shrink(), nn.Flatten()]
    inputs = 3 * _FC_SIDE**2
    for width in s.widths:
        steps += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(s.dropout)]
        inputs = width
    return nn.Sequential(*steps, nn.Linear(inputs, s.k))


def plain_cnn(s: Settings) -> nn.Module:
    """Three times convolution 3 x 3, batch norm, ReLU and pooling; then the average over positions and one layer."""
    steps: list[nn.Module] = []
    channels = 3
    for width in _CNN_CHANNELS:
        steps += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        steps.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(s.dropout), nn.Linear(channels, s.k))


BASELINES: dict[str, Callable[[Settings], nn.Module]] = {
    "fc": fully_connected,
    "cnn": plain_cnn,
    "resnet18": lambda s: models.resnet18(weights=None, num_classes=s.k),
    "resnet50": lambda s: models.resnet50(weights=None, num_classes=s.k),
}


class Baseline(Classifier):
    """A whole network as one part; its codes are its logits."""

    def __init__(self, kind: str, settings: Settings, *, size: int) -> None:
        super().__init__(PREPROCESSING, size)
        self.kind, self.settings = kind, settings
        self.net = BASELINES[kind](settings)

    def body(self, images: Tensor) -> Tensor:
        out: Tensor = self.net(images)
        return out

    def top(self, codes: Tensor) -> Tensor:
        return codes
