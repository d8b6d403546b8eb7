"""Augmentation: uint8 images one by one by torchvision's transforms, and mixtures of a batch's images and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from pipeline.base.errors import UserError
from pipeline.config import FinetuneParams


class PixelNoise(nn.Module):
    """Adds normal noise of a standard deviation in pixel values to a uint8 image, rounded and clipped."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, image: Tensor) -> Tensor:
        noisy = image.float() + torch.randn(image.shape) * self.sigma
        return noisy.round().clamp(0, 255).to(torch.uint8)


# Per image, uint8 (3, S, S) -> (3, size, size), always applied in this order, whatever the order asked.
AUGMENTS: dict[str, Callable[[FinetuneParams], nn.Module]] = {
    "crop": lambda p: v2.RandomCrop(p.size),
    "resized_crop": lambda p: v2.RandomResizedCrop(p.size, scale=(0.35, 1.0), antialias=True),
    "flip": lambda p: v2.RandomHorizontalFlip(),
    "colour": lambda p: v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
    "autoaugment": lambda p: v2.AutoAugment(),
    "randaugment": lambda p: v2.RandAugment(),
    "trivialaugment": lambda p: v2.TrivialAugmentWide(),
    "noise": lambda p: PixelNoise(p.noise),
    "erasing": lambda p: v2.RandomErasing(p=0.25),
}
# Per batch, after preprocessing; both mix labels as they mix images.
MIXES: dict[str, Callable[[FinetuneParams], nn.Module]] = {
    "mixup": lambda p: v2.MixUp(alpha=p.mix_alpha, labels_getter=_labels),
    "cutmix": lambda p: v2.CutMix(alpha=p.mix_alpha, labels_getter=_labels),
}
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_CROPS = {"crop", "resized_crop"}
_POLICIES = {"autoaugment", "randaugment", "trivialaugment"}


def _labels(sample: tuple[Tensor, Tensor]) -> Tensor:
    return sample[1]


def image_transform(names: Sequence[str], params: FinetuneParams) -> Callable[[Tensor], Tensor]:
    """One image's random transform, uint8 (3, S, S) -> (3, size, size); without a random crop the centre is cut.

    It draws from torch's own generator, which the caller seeds. Raises UserError on names that exclude each other.
    """
    for exclusive in (_CROPS, _POLICIES):
        both = sorted(exclusive & set(names))
        if len(both) > 1:
            raise UserError(f"augment names {' and '.join(both)}", allowed=f"at most one of {', '.join(exclusive)}")
    if "noise" in names and params.noise == 0:
        raise UserError("augment names noise, but finetune.image.noise is 0")
    steps = [make(params) for name, make in AUGMENTS.items() if name in names]
    if not _CROPS & set(names):
        steps.insert(0, v2.CenterCrop(params.size))
    return nn.Sequential(*steps)


def centre(image: Tensor, size: int) -> Tensor:
    """(..., S, S) -> the central (..., size, size), the odd pixel at the right and below."""
    top, left = (image.shape[-2] - size) // 2, (image.shape[-1] - size) // 2
    return image[..., top : top + size, left : left + size]


def batch_mix(names: Sequence[str], params: FinetuneParams) -> Mix | None:
    """(images (B, 3, H, W) float, labels (B, k)) -> the same, mixed by one of the asked mixes; None if none is asked.

    Each image is mixed with the one before it in the batch (torchvision rolls the batch by one).
    """
    mixes = [make(params) for name, make in MIXES.items() if name in names]
    return OneOf(mixes) if mixes else None


@dataclass(frozen=True)
class OneOf:
    """One of `mixes`, drawn for each batch. A class, so that a training process can be given it."""

    mixes: Sequence[nn.Module]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.mixes[int(torch.randint(len(self.mixes), ()))] if len(self.mixes) > 1 else self.mixes[0]
        mixed, soft = chosen(images, labels)
        return mixed, soft
