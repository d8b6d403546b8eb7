"""From a layer's map to a row. `POOLINGS` is the whole set; torch is needed only to apply one.

Every pooling takes maps (B, C, H, W) in any floating precision, channels last in memory, and gives (B, dim) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SPP_LEVELS = (1, 2, 4)
GEM_P = 3.0
# Smaller values are raised to it before the power, as the method's authors do.
GEM_FLOOR = 1e-6


@dataclass(frozen=True)
class Pooling:
    """`apply` is maps -> (B, dim(C, H, W)) float32; `settings` is what else decides its values."""

    apply: Callable[[Tensor], Tensor]
    dim: Callable[[int, int, int], int]
    settings: dict[str, float | list[int]] = field(default_factory=dict)


def flatten(maps: Tensor) -> Tensor:
    """In C, H, W order, whatever the order in memory."""
    return maps.flatten(1).float()


def average(maps: Tensor) -> Tensor:
    """Mean over positions, summed in float32."""
    return _in_float32(maps, lambda block: block.mean(dim=(2, 3)))


def maximum(maps: Tensor) -> Tensor:
    """Maximum over positions."""
    return maps.amax(dim=(2, 3)).float()


def spatial_pyramid(maps: Tensor) -> Tensor:
    """Maxima over grids of 1 x 1, 2 x 2 and 4 x 4 bins, level after level, each in C, H, W order (He et al. 2014).

    Bin i of n covers rows floor(i H / n) to ceil((i + 1) H / n), so that bins overlap where n does not divide H.
    """
    import torch
    from torch.nn import functional

    bins: list[Tensor] = [functional.adaptive_max_pool2d(maps, level) for level in SPP_LEVELS]
    return torch.cat([b.flatten(1).float() for b in bins], dim=1)


def generalised_mean(maps: Tensor) -> Tensor:
    """(mean of x^p)^(1/p) over positions with p = 3, x at least 1e-6 (Radenovic et al. 2018, equation 3)."""
    return _in_float32(maps, lambda block: block.clamp(min=GEM_FLOOR).pow(GEM_P).mean(dim=(2, 3)).pow(1 / GEM_P))


def soft(rows: Tensor) -> Tensor:
    """(n, d) float32 -> 1 / (1 + exp(-x)) of each value, within [0, 1] for any x; from 0.5 on after a ReLU."""
    return rows.sigmoid()


def l2_normalise(rows: Tensor) -> Tensor:
    """(n, d) float32 -> each row divided by its length; a row of zeros stays one."""
    from torch.nn import functional

    return functional.normalize(rows, dim=1, eps=1e-12)


def _in_float32(maps: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """`pool` of the maps in float32.

    On a processor image by image through one buffer: a float32 copy of a batch's largest maps would not fit its caches
    and costs as much as the convolution that made them.
    """
    import torch

    if maps.dtype == torch.float32 or maps.device.type != "cpu":
        return pool(maps.float())
    buffer = torch.empty_like(maps[:1], dtype=torch.float32, memory_format=torch.channels_last)
    return torch.cat([pool(buffer.copy_(maps[i : i + 1])) for i in range(len(maps))])


POOLINGS: dict[str, Pooling] = {
    "flatten": Pooling(flatten, lambda c, h, w: c * h * w),
    "avg": Pooling(average, lambda c, h, w: c),
    "max": Pooling(maximum, lambda c, h, w: c),
    "spp": Pooling(spatial_pyramid, lambda c, h, w: c * sum(n * n for n in SPP_LEVELS), {"levels": list(SPP_LEVELS)}),
    "gem": Pooling(generalised_mean, lambda c, h, w: c, {"p": GEM_P, "floor": GEM_FLOOR}),
}
