"""Which architecture a file's weights are of, by the shapes of its layers."""

from __future__ import annotations

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.weights.foreign import Content
from pipeline.nets.weights.match import fitting, num_classes_of


def detect(content: Content, where: str) -> str:
    """The architecture of which most layers fit, and of those the one with fewest gaps.

    Raises UserError if none fits, and if several fit alike: the first blocks of VGG-13, 16 and 19 are the same.
    """
    fits: dict[str, tuple[int, int]] = {}
    for arch in facts.ARCHS:
        shapes = content.shapes(arch)
        found, gaps = fitting(arch, shapes, num_classes=num_classes_of(shapes))
        fits[arch] = (found, -gaps)
    best = max(fits.values())
    if best[0] == 0:
        raise UserError(f"no layer of {where} fits an architecture known here", allowed=facts.ARCHS)
    likely = [arch for arch, fit in fits.items() if fit == best]
    if len(likely) > 1:
        raise UserError(f"{where} may be of {', '.join(likely)}: {best[0]} layers fit each", allowed="--arch")
    return likely[0]
