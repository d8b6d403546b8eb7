"""Which codes to advise on where none are named."""

from __future__ import annotations

from pipeline.base.errors import UserError
from pipeline.codes.weights_header import WeightsHeader
from pipeline.config import CodesParams, LayerSpec
from pipeline.nets import layers

# Earlier layers tell edges and colours; from here on one may be the best for data unlike the source's.
_BLOCK, _CONVOLUTION = "3", 3
# The source's own answers rather than codes.
_ANSWERS = ("fc8", "prob")


def upper_specs(weights: WeightsHeader, params: CodesParams) -> list[str]:
    """Averaged codes of every layer from conv3_3 up (of an architecture without it, from the last convolution of its
    third block) that the weights hold and images of this size have. Raises UserError if there is none.
    """
    order = layers.names(weights.arch)
    third = [name for name in order if name.startswith(f"conv{_BLOCK}") and not name.endswith(layers.PRE)]
    first = order.index(third[:_CONVOLUTION][-1])
    side = min(params.scales) if params.view == "whole" else params.crop
    held = weights.held_layers()
    wanted = [name for name in order[first:] if not name.endswith(layers.PRE) and name not in _ANSWERS]
    found = [name for name in wanted if name in held and _fits(weights.arch, name, side)]
    if not found:
        raise UserError(
            f"no layer of {weights.arch} from {order[first]} up fits these weights and images of {side} px",
            allowed="layers by name (--layers), or a larger size",
        )
    return [LayerSpec(layer=name, pooling="avg").name for name in found]


def _fits(arch: str, layer: str, side: int) -> bool:
    try:
        layers.shape(arch, layer, side, side)
    except UserError:
        return False
    return True
