"""What any network is to the rest of the library: its facts, and a way to run and to train it.

A family of networks is a module with `FAMILY`, and an entry in `BACKBONES`. `find(arch)` gives the facts of an
architecture, without torch, and `of(weights)` the network of some weights. Nothing else in the
library knows the name of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.config import WeightsParams
    from pipeline.nets.weights import Preprocessing, Weights


@dataclass(frozen=True)
class Layer:
    """What is known of a layer. `stride` and `receptive_field` are in pixels of the network's input, None where they
    mean nothing. `tokens`: its value is (B, T, D), else (B, C, h, w). `signed`: it may be below 0.

    `prefix`: how many of its tokens come before those of the patches, such as the class token.

    `inner`: a value within a step, such as that before a ReLU, which is there only for who asks by name. `answers`: it
    tells of the classes that the network was trained on, and is not a code.
    """

    name: str
    kind: str
    channels: int
    stride: int | None
    receptive_field: int | None
    tokens: bool = False
    signed: bool = False
    inner: bool = False
    answers: bool = False
    prefix: int = 0


class Head(Protocol):
    """A module on a trunk. `codes`: the trunk's map (B, C, h, w) -> (B, d); `logits`: (B, d) -> (B, k).

    `codes_dim` is d; `widths` are those of its hidden layers, () without any.
    """

    @property
    def codes_dim(self) -> int: ...
    @property
    def widths(self) -> tuple[int, ...]: ...

    def codes(self, maps: Tensor) -> Tensor: ...
    def logits(self, codes: Tensor) -> Tensor: ...


class Trunk(Protocol):
    """A network up to one layer, to be trained. `module` holds its parameters under their canonical names."""

    @property
    def until(self) -> str: ...
    @property
    def module(self) -> nn.Module: ...
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed images -> the value of `until`."""
        ...

    def plain(self) -> nn.Module:
        """(B, 3, H, W) preprocessed images -> the value of `until`, as a module that torch can export: no hooks, and no
        checks of sizes. Raises UserError if the network's code can't be traced."""
        ...

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Layers with parameters, as the per-layer table names them, in computing order, by blocks."""
        ...

    def layer_of(self, parameter: str) -> str:
        """The one of them that a parameter is of."""
        ...


class Runner(Protocol):
    """A network on its device, for some layers."""

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) preprocessed images of the precision -> layer -> (B, C, h, w) or (B, T, D).

        One pass to the deepest layer. What is returned shares no memory. Raises UserError if the images are too
        small for a layer.
        """
        ...


class Architecture(Protocol):
    """The facts of a network, known from its name alone. Those of a library's network need torch once, and are kept.

    `codes`: keys of the section `codes` that give images the view that its weights are made for, {} where presets say.
    `native_size`: pixels a side of the images that it was made for. `logits`: the layer of its classes, before the
    softmax. `advised_from`: the first layer that is worth advising on. `short`, `long`: the layers of a collection's
    short and long codes. `top`: the last layer before the classifier, which strategies put new heads on. `heads`: the
    names of its own.
    """

    @property
    def family(self) -> str: ...
    @property
    def arch(self) -> str: ...
    @property
    def native_size(self) -> int: ...
    @property
    def codes(self) -> Mapping[str, Any]: ...
    @property
    def logits(self) -> str: ...
    @property
    def advised_from(self) -> str: ...
    @property
    def short(self) -> str: ...
    @property
    def long(self) -> str: ...
    @property
    def top(self) -> str: ...
    @property
    def heads(self) -> tuple[str, ...]: ...
    @property
    def trainable(self) -> bool:
        """Whether strategies can train it."""
        ...

    @property
    def note(self) -> str:
        """What a list of its layers says of their values, "" or behind a semicolon."""
        ...

    def require_size(self, height: int, width: int) -> None:
        """Raises UserError if it takes no image of that size at all, with sizes that it takes."""
        ...

    def layers(self) -> tuple[Layer, ...]:
        """In computing order."""
        ...

    def require(self, layer: str) -> Layer:
        """Raises UserError that lists the right names."""
        ...

    def shape(self, layer: str, height: int, width: int, *, num_classes: int | None = None) -> tuple[int, ...]:
        """The shape of a layer's value for one image. Raises UserError on a wrong name, and on too small an image."""
        ...

    def tensors(self, until: str | None = None) -> tuple[str, ...]:
        """Canonical names of the tensors that a layer needs, all without one."""
        ...

    def before(self, layer: str) -> tuple[str, ...]:
        """Layers with parameters, as the per-layer table names them, that are computed before a layer."""
        ...

    def num_classes(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many classes weights have whose tensors are of these shapes."""
        ...

    def values_at_once(self, asked: Collection[str], height: int, width: int) -> tuple[int, int]:
        """Values a forward pass of one image holds at its highest, and those that are left when it ends."""
        ...

    def trunk(self, until: str) -> Trunk:
        """With torch's initial values."""
        ...

    def head(self, kind: str, *, size: int, widths: Sequence[int], k: int, dropout: float) -> Head:
        """One of `heads`, a `Head`, for images of `size` pixels and `k` classes."""
        ...

    def with_head(self, kind: str, *, size: int, widths: Sequence[int]) -> str:
        """The name of the architecture that trunk and such a head are together."""
        ...


class Backbone(Protocol):
    """A network with its weights. `sha256` is of all that changes a value: equal weights of any file are one."""

    @property
    def about(self) -> Architecture: ...
    @property
    def sha256(self) -> str: ...
    @property
    def preprocessing(self) -> Preprocessing: ...

    def layers(self) -> tuple[Layer, ...]:
        """Those that the weights can compute, in computing order."""
        ...

    def key(self) -> dict[str, Any]:
        """Its part of the store's key, as plain values."""
        ...

    def runner(self, layers: Sequence[str], *, device: str, precision: str, compile: bool = False) -> Runner:
        """On cpu, cuda or mps, in fp32, bf16 or fp16. Raises UserError on layers that the weights lack."""
        ...

    def trunk(self, until: str) -> Trunk:
        """Its parameters share memory with the weights. Raises UserError if these stop before `until`."""
        ...


class Family(Protocol):
    """Architectures that one module knows. `more`: what else than `archs` it finds, in words; "" if nothing."""

    @property
    def more(self) -> str: ...

    def archs(self) -> tuple[str, ...]:
        """The names to list."""
        ...

    def find(self, arch: str) -> Architecture | None:
        """None if it is of another family. Raises UserError if it is of this one and can't be."""
        ...

    def of(self, weights: Weights) -> Backbone: ...

    def check(self, arch: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Canonical tensors in the network's order, contiguous, as float32. Raises UserError with all that is wrong."""
        ...

    def resolve(self, params: WeightsParams, cache: Path) -> Weights:
        """The weights of a source, which may be fetched into `cache`. Raises UserError if there are none."""
        ...


def _vgg() -> Family:
    from pipeline.nets.vgg.backbone import FAMILY

    return FAMILY


def _torchvision() -> Family:
    from pipeline.nets.torchvision_models import FAMILY

    return FAMILY


def _timm() -> Family:
    from pipeline.nets.timm_models import FAMILY

    return FAMILY


# The head that suits every trunk: the average over positions, and one linear layer.
GAP = "gap"

# Loaded when asked, since the modules import this one.
BACKBONES: dict[str, Callable[[], Family]] = {"vgg": _vgg, "torchvision": _torchvision, "timm": _timm}


def archs() -> list[str]:
    """The names of all architectures."""
    return [arch for load in BACKBONES.values() for arch in load().archs()]


def heads() -> list[str]:
    """The names of all heads that some architecture can be trained with."""
    return list(dict.fromkeys([GAP, *(head for arch in archs() for head in find(arch).heads)]))


def find(arch: str) -> Architecture:
    """The facts of the architecture of that name. Raises UserError that lists the names."""
    return _found(arch)[1]


def family(arch: str) -> Family:
    """The family of the architecture of that name. Raises UserError that lists the names."""
    return _found(arch)[0]


def _found(arch: str) -> tuple[Family, Architecture]:
    for load in BACKBONES.values():
        if (found := load().find(arch)) is not None:
            return load(), found
    raise UserError(
        f"unknown architecture {arch!r}",
        allowed=[*archs(), *filter(None, (load().more for load in BACKBONES.values()))],
        see="`cnncodes layers`",
    )


def of(weights: Weights) -> Backbone:
    """The network of some weights."""
    return BACKBONES[find(weights.arch).family]().of(weights)


def names(about: Architecture) -> tuple[str, ...]:
    """The names of its layers, in computing order."""
    return tuple(layer.name for layer in about.layers())


def steps(about: Architecture) -> tuple[str, ...]:
    """Its convolutions, and blocks of them or of others, in computing order; not what lies within a block."""
    return tuple(one.name for one in about.layers() if one.kind in ("conv", "block") and not one.inner)


def deepest_of(about: Architecture, asked: Iterable[str]) -> str:
    """The deepest of some layers. Raises UserError on a wrong name or if none is asked."""
    order = names(about)
    found = [about.require(layer).name for layer in asked]
    if not found:
        raise UserError("no layer is asked for", allowed=order)
    return max(found, key=order.index)


def held(about: Architecture, tensors: Collection[str]) -> list[str]:
    """The layers that weights with tensors of these names can compute, in computing order."""
    there = set(tensors)
    return [name for name in names(about) if there.issuperset(about.tensors(name))]
