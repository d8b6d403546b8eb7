"""Which codes to advise on where none are named."""

from __future__ import annotations

from pipeline.base.errors import UserError
from pipeline.codes.weights_header import WeightsHeader
from pipeline.config import CodesParams, LayerSpec
from pipeline.nets import backbone


def upper_specs(weights: WeightsHeader, params: CodesParams) -> list[str]:
    """Averaged codes of every layer from the architecture's `advised_from` up that the weights hold and images
    of this size have. Raises UserError if there is none.
    """
    about = backbone.find(weights.arch)
    first = backbone.names(about).index(about.advised_from)
    side = min(params.scales) if params.view == "whole" else params.crop
    held = weights.held_layers()
    wanted = [layer.name for layer in about.layers()[first:] if not layer.inner and not layer.answers]
    found = [name for name in wanted if name in held and _fits(about, name, side)]
    if not found:
        raise UserError(
            f"no layer of {weights.arch} from {about.advised_from} up fits these weights and images of {side} px",
            allowed="layers by name (--layers), or a larger size",
        )
    return [LayerSpec(layer=name, pooling="avg").name for name in found]


def _fits(about: backbone.Architecture, layer: str, side: int) -> bool:
    try:
        about.shape(layer, side, side)
    except UserError:
        return False
    return True
