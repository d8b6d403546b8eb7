"""A module whose layers give their values by hooks, in one pass that stops at the deepest."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import UserError
from pipeline.nets.modules.facts import Tap


class _Stop(Exception):
    """The deepest layer has its value: what comes after it is not wanted."""


class Tapped:
    """Not for several threads at once. `copies`: values share no memory with one another, nor with what is computed
    from them; without them a gradient passes through."""

    def __init__(self, module: nn.Module, taps: Sequence[Tap], *, copies: bool) -> None:
        self.module, self._copies = module, copies
        self._wanted = {tap.name for tap in taps}
        self._found: dict[str, Tensor] = {}
        for tap in {tap.name: tap for tap in taps}.values():
            module.get_submodule(tap.name).register_forward_hook(functools.partial(self._take, tap))

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) preprocessed images -> layer -> (B, C, h, w), of a vector (B, C, 1, 1), or tokens (B, T, D)."""
        self._found = {}
        with contextlib.suppress(_Stop):
            self.module(images)
        found, self._found = self._found, {}
        return found

    def _take(self, tap: Tap, _: nn.Module, __: Any, value: Tensor) -> None:
        value = _in_order(value, tap)
        if self._copies:
            # Now, and not after the pass: what comes next may write into it.
            value = value.clone(memory_format=torch.channels_last if value.ndim == 4 else torch.contiguous_format)
        self._found[tap.name] = value
        if len(self._found) == len(self._wanted):
            raise _Stop


def _in_order(value: Tensor, tap: Tap) -> Tensor:
    """What a module gives -> (B, C, h, w), of a vector (B, C, 1, 1), or tokens (B, T, D)."""
    if not tap.tokens and tap.shape[1:] == (1, 1) and value.ndim == 2:
        return value[:, :, None, None]
    return value.permute(0, 3, 1, 2) if tap.channels_last else value


class Traced(nn.Module):
    """The graph of a network up to one layer."""

    def __init__(self, graph: nn.Module, tap: Tap) -> None:
        super().__init__()
        self.graph, self.tap = graph, tap

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed images -> (B, C, h, w), of a vector (B, C, 1, 1), or tokens (B, T, D)."""
        return _in_order(self.graph(images)[self.tap.name], self.tap)


def traced(module: nn.Module, tap: Tap, *, name: str) -> Traced:
    """A copy of the module up to a layer, without its hooks. Raises UserError if torch.fx can't trace it, as where the
    code asks for sizes."""
    from torchvision.models.feature_extraction import create_feature_extractor

    copied = copy.deepcopy(module).eval()
    for part in copied.modules():
        part._forward_hooks.clear()
    try:
        return Traced(create_feature_extractor(copied, {tap.name: tap.name}), tap)
    except Exception as e:  # whatever code meets that is given no values
        raise UserError(
            f"{name} can't be traced up to {tap.name} ({' '.join(str(e).split())[:200]})",
            allowed="a network whose code doesn't ask for the images' size, such as a ResNet or an EfficientNet",
        ) from e


def without(module: nn.Module, tensors: Collection[str]) -> nn.Module:
    """The module, with an identity in place of every part whose parameters and buffers are all among `tensors`."""
    dropped = set(tensors)
    owners: dict[str, set[str]] = {}
    for name in module.state_dict():
        parts = name.split(".")[:-1]
        for i in range(1, len(parts) + 1):
            owners.setdefault(".".join(parts[:i]), set()).add(name)
    floating = {name for name, t in module.state_dict().items() if t.is_floating_point()}
    gone = [name for name, held in owners.items() if held & floating and held & floating <= dropped]
    for name in gone:
        parent, _, child = name.rpartition(".")
        if not any(name.startswith(f"{other}.") for other in gone):
            setattr(module.get_submodule(parent), child, nn.Identity())
    return module
