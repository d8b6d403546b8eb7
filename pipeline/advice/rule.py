"""The rule: from how many images there are, and how like the source's they are, to what to transfer and how.

Few images can train little beside a linear head, many can train the layers; where images are like the source's the top
codes fit as they are, where not the top is the source's own and earlier layers are more general (Yosinski, Clune,
Bengio and Lipson 2014; Razavian et al. 2014; the four cases are those of the course CS231n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.advice.measure import Layer
from pipeline.config import LayerSpec
from pipeline.nets import layers

Size = Literal["small", "large"]
Likeness = Literal["alike", "different"]


@dataclass(frozen=True)
class Case:
    """`transfer`: `head` on frozen codes, or `finetune`. `kinds`: strategies of the stage `finetune` that do it.

    `do` and `otherwise` are the advice in words, with {spec} the advised codes and {half} the layer at which the top
    half begins.
    """

    transfer: Literal["head", "finetune"]
    kinds: tuple[str, ...]
    do: str
    otherwise: str


RULE: Mapping[tuple[Size, Likeness], Case] = {
    ("small", "alike"): Case(
        "head",
        ("frozen",),
        "Keep the network as it is and train a linear head on {spec}.",
        "Tuning layers with so few images mostly learns them by heart.",
    ),
    ("large", "alike"): Case(
        "finetune",
        ("finetune", "gradual"),
        "Fine-tune the top half of the network, from {half} up, then all of it.",
        "A linear head on {spec} is the cheap way, and the one to beat.",
    ),
    ("small", "different"): Case(
        "head",
        ("frozen",),
        "Keep the network as it is and train a linear head on {spec}, an earlier layer than the last.",
        "Where that is not enough, tune everything at a small rate.",
    ),
    ("large", "different"): Case(
        "finetune",
        ("finetune", "gradual"),
        "Tune all layers, starting from the source's weights.",
        "A linear head on {spec} is the cheap way, and the one to beat.",
    ),
}


@dataclass(frozen=True)
class Depth:
    """How the codes separate the classes by depth: `best` of all codes, `top` of the deepest layer's, and how far the
    top lags. `alike` is None where all codes are of one layer, which tells nothing of depth."""

    best: Layer
    top: Layer
    lag: float
    lag_se: float
    allowed: float
    alike: bool | None


def best_of(found: Sequence[Layer], expected: Mapping[str, float]) -> Layer:
    """The highest expected accuracy; of equal ones the shortest codes, then the first in `found`."""
    return max(found, key=lambda layer: (expected[layer.spec], -layer.dim))


def by_depth(found: Sequence[Layer], expected: Mapping[str, float], *, arch: str, points: float) -> Depth:
    """The top is as good as the best unless it lags by more than `points` and by more than two standard errors."""
    deepest = layers.deepest_of(arch, [LayerSpec.parse(layer.spec).layer for layer in found])
    best = best_of(found, expected)
    top = best_of([layer for layer in found if LayerSpec.parse(layer.spec).layer == deepest], expected)
    lag_measured, se = top.behind(best)
    lag = expected[best.spec] - expected[top.spec] if best is not top else lag_measured
    allowed = max(points, 2 * se)
    one = len({LayerSpec.parse(layer.spec).layer for layer in found}) == 1
    return Depth(best, top, lag, se, allowed, None if one else lag <= allowed)


def top_half(arch: str) -> str:
    """The first convolution of the upper half of an architecture's convolutions, e.g. conv4_1 of vgg16."""
    convolutions = [one.name for one in layers.layers(arch) if one.kind == "conv" and not one.name.endswith(layers.PRE)]
    return convolutions[(len(convolutions) + 1) // 2]
