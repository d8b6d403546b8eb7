"""From a layer's value to a row. `POOLINGS` is the whole set; torch is needed only to apply one.

Every pooling takes maps (B, C, H, W) in any floating precision, channels last in memory, and gives (B, dim) float32.
Tokens (B, T, D) are pooled as the map of their patches' tokens; `cls` and `patchavg` are of tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.nets.backbone import Layer

SPP_LEVELS = (1, 2, 4)
GEM_P = 3.0
# Smaller values are raised to it before the power, as the method's authors do.
GEM_FLOOR = 1e-6


@dataclass(frozen=True)
class Pooling:
    """`apply` is maps -> (B, dim(C, H, W)) float32; `settings` is what else decides its values. `of_tokens`: of these
    alone; `prefix`: what it takes are the tokens before the patches', as (B, T, D)."""

    apply: Callable[[Tensor], Tensor]
    dim: Callable[[int, int, int], int]
    settings: dict[str, float | list[int]] = field(default_factory=dict)
    of_tokens: bool = False
    prefix: bool = False


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


def class_token(tokens: Tensor) -> Tensor:
    """(B, T, D) -> (B, D): the first, which a transformer adds to the patches'."""
    return tokens[:, 0].float()


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
    "cls": Pooling(class_token, lambda c, h, w: c, of_tokens=True, prefix=True),
    "patchavg": Pooling(average, lambda c, h, w: c, of_tokens=True),
}


def pooled(name: str, value: Tensor, layer: Layer, *, height: int, width: int) -> Tensor:
    """A layer's value for images of height x width pixels -> (B, dim) float32."""
    pooling = POOLINGS[name]
    if not layer.tokens:
        return pooling.apply(value)
    if pooling.prefix:
        return pooling.apply(value[:, : layer.prefix])
    patches = value[:, layer.prefix :]
    rows, columns = grid(patches.shape[1], height, width)
    # (B, h * w, D) -> (B, D, h, w), channels last in memory
    return pooling.apply(patches.reshape(len(value), rows, columns, -1).permute(0, 3, 1, 2))


def dim(name: str, layer: Layer, shape: Sequence[int], *, height: int, width: int) -> int:
    """Values a row of a layer whose value for one such image has this shape. Raises UserError if they don't go
    together."""
    require(name, layer)
    if not layer.tokens:
        return POOLINGS[name].dim(*shape)
    return POOLINGS[name].dim(shape[1], *grid(shape[0] - layer.prefix, height, width))


def require(name: str, layer: Layer) -> None:
    """Raises UserError if the pooling means nothing on the layer."""
    if POOLINGS[name].of_tokens and not layer.tokens:
        raise UserError(
            f"{layer.name} is a map and no tokens, so it has no {name}",
            allowed=[other for other, pooling in POOLINGS.items() if not pooling.of_tokens],
        )
    if POOLINGS[name].prefix and not layer.prefix:
        raise UserError(f"{layer.name} has no class token", allowed="avg, max, gem, spp, flatten or patchavg")


def grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of so many patches of an image of height x width pixels; a row if they fill no such grid."""
    rows = round(math.sqrt(count * height / width))
    return (rows, count // rows) if rows and count % rows == 0 else (1, count)
