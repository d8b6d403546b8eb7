"""Architectures with other fc layers: `vgg16-64px-fc256-128` is vgg16 for 64 pixels with fc6 256 and fc7 128 wide.

Such a network is named, read, checked and extracted from like any other.
"""

from __future__ import annotations

import re

from pipeline.errors import UserError
from pipeline.nets import layers
from pipeline.nets.layers import Op

_NAME = re.compile(r"(?P<base>[a-z0-9_]+)-(?P<side>[0-9]+)px-fc(?P<fc6>[0-9]+)-(?P<fc7>[0-9]+)")


def variant(base: str, side: int, widths: tuple[int, int]) -> str:
    """The name of `base` for images of `side` pixels with fc6 and fc7 of `widths`; `base` itself where it is the same.

    From then on `nets.layers` knows the name. Raises UserError if images of that size leave no map for fc6.
    """
    own = layers.find(base)
    last_pool = next(op.name for op in reversed(own.ops) if op.kind == "pool")
    _, map_side, _ = layers.shape(base, last_pool, side, side)
    new = {"fc6": Op("fc6", "fc", widths[0], kernel=map_side), "fc7": Op("fc7", "fc", widths[1])}
    ops = tuple(new.get(op.name, op) for op in own.ops)
    if side == own.native_size and ops == own.ops:
        return base
    name = f"{base}-{side}px-fc{widths[0]}-{widths[1]}"
    layers.ARCHS[name] = layers.Arch(name, side, own.batch_norm, ops)
    return name


def know(name: str) -> str:
    """Makes `nets.layers` know a variant's name; other names are left to it. Returns the name."""
    match = _NAME.fullmatch(name)
    if match is not None and name not in layers.ARCHS:
        made = variant(match["base"], int(match["side"]), (int(match["fc6"]), int(match["fc7"])))
        if made != name:
            raise UserError(f"{name} is {made}")
    return name
