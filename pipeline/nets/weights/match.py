"""Imports what fits and renews or leaves out what doesn't, with an account of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pipeline.nets.vgg import facts
from pipeline.nets.weights import random
from pipeline.nets.weights.foreign import shapes_of

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Entry:
    """What became of one layer's tensors, or of tensors that the architecture doesn't have."""

    name: str
    outcome: Literal["copied", "renewed", "left out", "unused"]
    why: str


def match(
    arch: str, tensors: Mapping[str, Tensor], *, num_classes: int, seed: int
) -> tuple[dict[str, Tensor], tuple[Entry, ...]]:
    """Whole tensors of `arch`: those of `tensors` where all of a layer fit by name and shape, else random ones.

    A layer is taken or renewed as one, its norm included: a bias of another kernel means nothing.
    """
    fresh = random.tensors(arch, seed, num_classes=num_classes)
    account: list[Entry] = []
    whole: dict[str, Tensor] = {}
    for layer, names, why in _layers(arch, shapes_of(tensors), num_classes):
        whole |= {name: (fresh if why else tensors)[name] for name in names}
        account.append(Entry(layer, "renewed" if why else "copied", why or _FITS))
    return whole, (*account, *_unused(arch, tensors, num_classes))


def leading(
    arch: str, tensors: Mapping[str, Tensor], *, num_classes: int
) -> tuple[dict[str, Tensor], tuple[Entry, ...]]:
    """The tensors of the layers before the first that doesn't fit: weights may stop anywhere, but have no holes."""
    account: list[Entry] = []
    kept: dict[str, Tensor] = {}
    first = ""
    for layer, names, why in _layers(arch, shapes_of(tensors), num_classes):
        if not first and not why:
            kept |= {name: tensors[name] for name in names}
            account.append(Entry(layer, "copied", _FITS))
        else:
            account.append(Entry(layer, "left out", why or f"it comes after {first}"))
            first = first or layer
    return kept, (*account, *_unused(arch, tensors, num_classes))


def fitting(arch: str, shapes: Shapes, *, num_classes: int) -> tuple[int, int]:
    """How many layers of `arch` fit, and how many before the deepest of these don't."""
    fits = [not why for _, _, why in _layers(arch, shapes, num_classes)]
    deepest = max((i for i, fit in enumerate(fits) if fit), default=-1)
    return sum(fits), deepest + 1 - sum(fits)


def num_classes_of(shapes: Shapes) -> int:
    """Rows of fc8, ImageNet's 1000 without one."""
    fc8 = shapes.get("fc8.weight", ())
    return fc8[0] if len(fc8) == 2 else facts.IMAGENET_CLASSES


def text(account: tuple[Entry, ...]) -> str:
    """The account, one line a layer."""
    return "\n".join(f"{entry.name:12} {entry.outcome:8} {entry.why}" for entry in account)


_FITS = "name and shape fit"


def _layers(arch: str, shapes: Shapes, num_classes: int) -> list[tuple[str, list[str], str]]:
    """(layer, its tensors' names, why they don't fit or "") in the network's order."""
    wanted = facts.tensor_shapes(arch, num_classes=num_classes)
    by_layer: dict[str, list[str]] = {}
    for name in wanted:
        by_layer.setdefault(_layer(name), []).append(name)
    return [
        (layer, names, "; ".join(filter(None, (_misfit(name, wanted[name], shapes) for name in names))))
        for layer, names in by_layer.items()
    ]


def _unused(arch: str, tensors: Mapping[str, Tensor], num_classes: int) -> list[Entry]:
    wanted = facts.tensor_shapes(arch, num_classes=num_classes)
    return [Entry(name, "unused", f"{arch} has no such tensor") for name in tensors if name not in wanted]


def _layer(name: str) -> str:
    """conv1_1.bias and bn1_1.running_var -> conv1_1."""
    return name.partition(".")[0].replace("bn", "conv")


def _misfit(name: str, shape: tuple[int, ...], shapes: Shapes) -> str:
    if name not in shapes:
        return f"{name} is missing"
    return "" if shapes[name] == shape else f"{name} is {shapes[name]}, not {shape}"
