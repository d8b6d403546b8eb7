"""Names of networks with other fc layers: see `nets.layers.variant`."""

from __future__ import annotations

from pipeline.nets import layers
from pipeline.nets.layers import variant

__all__ = ["know", "variant"]


def know(name: str) -> str:
    """The name, if `nets.layers` knows it. Raises UserError otherwise."""
    return layers.find(name).name
