"""Small networks trained from scratch, for comparison: what a target's own data gives without any transfer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from pipeline.nets.weights import Preprocessing
from pipeline.strategies.model import Classifier

# x / 255 standardised by ImageNet's mean and deviation, as torchvision's recipes have it.
PREPROCESSING = Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FC_SIDE = 32
_CNN_CHANNELS = (32, 64, 128)


class Shrink(nn.Module):
    """Images of any size -> 32 x 32 by averaging, so that a fully connected net stays small."""

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, _FC_SIDE)


def fully_connected(k: int, widths: Sequence[int], dropout: float) -> nn.Module:
    """32 x 32 x 3 -> `widths` with ReLU and dropout -> k."""
    steps: list[nn.Module] = [Shrink(), nn.Flatten()]
    inputs = 3 * _FC_SIDE**2
    for width in widths:
        steps += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*steps, nn.Linear(inputs, k))


def plain_cnn(k: int, widths: Sequence[int], dropout: float) -> nn.Module:
    """Three times convolution 3 x 3, batch norm, ReLU and pooling; then the average over positions and one layer."""
    steps: list[nn.Module] = []
    channels = 3
    for width in _CNN_CHANNELS:
        steps += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        steps.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, k))


# name -> (classes, hidden layers of the fully connected net, dropout) -> network.
BASELINES: dict[str, Callable[[int, Sequence[int], float], nn.Module]] = {
    "fc": fully_connected,
    "cnn": plain_cnn,
    "resnet18": lambda k, widths, dropout: models.resnet18(weights=None, num_classes=k),
    "resnet50": lambda k, widths, dropout: models.resnet50(weights=None, num_classes=k),
}


class Baseline(Classifier):
    """A whole network as one part; its codes are its logits."""

    def __init__(self, kind: str, *, k: int, widths: Sequence[int], dropout: float, size: int) -> None:
        super().__init__(PREPROCESSING, size)
        self.kind, self.widths = kind, widths
        self.net = BASELINES[kind](k, widths, dropout)

    def body(self, images: Tensor) -> Tensor:
        out: Tensor = self.net(images)
        return out

    def top(self, codes: Tensor) -> Tensor:
        return codes
