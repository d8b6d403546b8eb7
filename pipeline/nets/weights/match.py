"""Imports what fits and renews what doesn't, with an account of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.nets.weights import random


@dataclass(frozen=True)
class Entry:
    """What became of one layer's tensors, or of tensors that the architecture doesn't have."""

    name: str
    outcome: Literal["copied", "renewed", "unused"]
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
    for layer in dict.fromkeys(_layer(name) for name in fresh):
        wanted = {name: tensor for name, tensor in fresh.items() if _layer(name) == layer}
        why = "; ".join(filter(None, (_misfit(name, t.shape, tensors) for name, t in wanted.items())))
        whole |= wanted if why else {name: tensors[name] for name in wanted}
        account.append(Entry(layer, "renewed" if why else "copied", why or "name and shape fit"))
    for name in tensors:
        if name not in fresh:
            account.append(Entry(name, "unused", f"{arch} has no such tensor"))
    return whole, tuple(account)


def text(account: tuple[Entry, ...]) -> str:
    """The account, one line a layer."""
    return "\n".join(f"{entry.name:12} {entry.outcome:8} {entry.why}" for entry in account)


def _layer(name: str) -> str:
    """conv1_1.bias and bn1_1.running_var -> conv1_1."""
    return name.partition(".")[0].replace("bn", "conv")


def _misfit(name: str, shape: torch.Size, tensors: Mapping[str, Tensor]) -> str:
    if name not in tensors:
        return f"{name} is missing"
    found = tensors[name].shape
    return "" if found == shape else f"{name} is {tuple(found)}, not {tuple(shape)}"
