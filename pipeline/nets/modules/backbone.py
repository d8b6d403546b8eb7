"""A library's network as a backbone: layers are modules by their dotted names, and hooks give their values."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.base.errors import UserError
from pipeline.config import WeightsParams
from pipeline.nets import backbone
from pipeline.nets.backbone import Head, Layer
from pipeline.nets.modules import facts
from pipeline.nets.modules.facts import Facts, Tap
from pipeline.nets.modules.library import Library
from pipeline.nets.weighted import Weighted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.nets.modules.tapped import Tapped
    from pipeline.nets.weights import Weights

_NEAREST = 3
# A pass holds the input of a block, what the block makes of it, and what it adds them to.
_MAPS_AT_ONCE = 4
# From a third of the depth on a layer may be the best for data unlike the source's.
_ADVISED_SHARE = 3


@dataclass(frozen=True)
class Architecture:
    """The facts of one network, see `backbone.Architecture`. Nothing is loaded until one is asked for."""

    library: Library
    name: str
    heads: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return self.library.name

    @property
    def arch(self) -> str:
        return f"{self.library.name}:{self.name}"

    @property
    def facts(self) -> Facts:
        return facts.facts(self.library, self.name)

    @property
    def native_size(self) -> int:
        return self.facts.size

    @property
    def codes(self) -> Mapping[str, Any]:
        return dict(self.facts.codes)

    @property
    def logits(self) -> str:
        """The last layer: of a network without a classifier what comes out of it."""
        return self.facts.taps[-1].name

    @property
    def top(self) -> str:
        """The last layer outside of blocks that has more than one position."""
        return self._with_positions()[-1].name

    short = long = top
    # Saved classifiers and the images that they train on know nothing of a library's view yet.
    trainable = False

    @property
    def note(self) -> str:
        inner = sum(tap.inner for tap in self.facts.taps)
        return f"; {inner} more within blocks are in --json" if inner else ""

    def require_size(self, height: int, width: int) -> None:
        facts.shapes(self.library, self.name, height, width)

    @property
    def advised_from(self) -> str:
        layers = self._with_positions()
        return layers[len(layers) // _ADVISED_SHARE].name

    def layers(self) -> tuple[Layer, ...]:
        known = self.facts
        after = list(known.by_name).index(self.top)
        return tuple(
            Layer(
                tap.name,
                tap.kind,
                tap.channels,
                _stride(tap, known.size),
                None,
                tokens=tap.tokens,
                signed=tap.signed,
                inner=tap.inner,
                answers=place > after and tap.channels == known.num_classes,
                prefix=known.prefix if tap.tokens else 0,
            )
            for place, tap in enumerate(known.taps)
        )

    def require(self, layer: str) -> Layer:
        for known in self.layers():
            if known.name == layer:
                return known
        near = difflib.get_close_matches(layer, list(self.facts.by_name), _NEAREST, 0.0)
        raise UserError(
            f"{self.arch} has no layer {layer!r}",
            allowed=f"nearest to it {', '.join(near)}; the last before the classifier is {self.top}",
            see=f"`cnncodes layers --arch {self.arch}`",
        )

    def shape(self, layer: str, height: int, width: int, *, num_classes: int | None = None) -> tuple[int, ...]:
        known = self.require(layer)
        found = facts.shapes(self.library, self.name, height, width).get(layer)
        if found is None:
            raise UserError(f"{layer} of {self.arch} has no value for images of {height} x {width} pixels")
        return (num_classes, *found[1:]) if known.answers and num_classes else found

    def tensors(self, until: str | None = None) -> tuple[str, ...]:
        names = tuple(name for name, _ in self.facts.tensors)
        return names if until is None else names[: self.facts.by_name[self.require(until).name].needs]

    def tensor_shapes(self, num_classes: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor, if the weights have that many classes."""
        known = self.facts
        stem = known.classifier.rpartition(".")[0]
        rows = {known.classifier, f"{stem}.bias"} if stem else set()
        return {name: (num_classes, *shape[1:]) if name in rows else shape for name, shape in known.tensors}

    def before(self, layer: str) -> tuple[str, ...]:
        needed = self.tensors()[: self._begun(layer)]
        return tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in needed))

    def _begun(self, layer: str) -> int:
        """How many tensors are needed before any of a layer's own."""
        self.require(layer)
        own = [i for i, name in enumerate(self.tensors()) if name.startswith(f"{layer}.")]
        return own[0] if own else self.facts.by_name[layer].needs

    def num_classes(self, shapes: Mapping[str, Sequence[int]]) -> int:
        known = self.facts
        return shapes[known.classifier][0] if known.classifier in shapes else known.num_classes

    def values_at_once(self, asked: Collection[str], height: int, width: int) -> tuple[int, int]:
        """An upper bound, from the size that the facts are of and the number of pixels."""
        known = self.facts
        larger = height * width / known.size**2
        kept = sum(math.prod(known.by_name[self.require(name).name].shape) for name in asked)
        return round(larger * (kept + _MAPS_AT_ONCE * known.largest)), round(larger * kept)

    def trunk(self, until: str) -> Trunk:
        return Trunk(self, self.library.build(self.name), until)

    def head(self, kind: str, *, size: int, widths: Sequence[int], k: int, dropout: float) -> Head:
        self._refuse_head(kind)

    def with_head(self, kind: str, *, size: int, widths: Sequence[int]) -> str:
        self._refuse_head(kind)

    def _refuse_head(self, kind: str) -> NoReturn:
        raise UserError(f"{self.arch} has no head {kind!r}", allowed=backbone.GAP, see="finetune.model.head")

    def _with_positions(self) -> list[Tap]:
        return [tap for tap in self.facts.taps if not tap.inner and (tap.tokens or tap.shape[1] * tap.shape[2] > 1)]


def _stride(tap: Tap, size: int) -> int | None:
    """None where a value has no positions, or not a whole number of pixels lies between them."""
    if tap.tokens or tap.shape[1] == 1 or size % tap.shape[1]:
        return None
    return size // tap.shape[1]


class Trunk:
    """A module without what lies beyond one layer, see `backbone.Trunk`."""

    def __init__(self, about: Architecture, module: nn.Module, until: str) -> None:
        from pipeline.nets.modules.tapped import Tapped, without

        self.until = about.require(until).name
        self.module = without(module, set(about.tensors()) - set(about.tensors(until)))
        self._about = about
        self._tapped = Tapped(self.module, [about.facts.by_name[self.until]], copies=False)

    def __call__(self, images: Tensor) -> Tensor:
        return _checked(self._about, self._tapped, images)[self.until]

    def plain(self) -> nn.Module:
        from pipeline.nets.modules.tapped import traced

        return traced(self.module, self._about.facts.by_name[self.until], name=self._about.arch)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """By the first part of a name that has parameters, or the first two where the first only holds blocks."""
        found: dict[str, list[str]] = {}
        outer = [tap.name for tap in self._about.facts.taps if not tap.inner]
        order = [name for name in self._about.tensors(self.until) if name in dict(self.module.named_parameters())]
        for layer in dict.fromkeys(map(self.layer_of, order)):
            block = next((name for name in outer if layer == name or layer.startswith(f"{name}.")), layer)
            found.setdefault(block, []).append(layer)
        return tuple(map(tuple, found.values()))

    def layer_of(self, parameter: str) -> str:
        return parameter.rpartition(".")[0] or parameter


class Runner:
    """See `backbone.Runner`."""

    def __init__(self, about: Architecture, tapped: Tapped, layers: Sequence[str]) -> None:
        self._about, self._tapped, self._layers = about, tapped, list(layers)

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        found = _checked(self._about, self._tapped, x)
        return {name: found[name] for name in self._layers}


def _checked(about: Architecture, tapped: Tapped, images: Tensor) -> dict[str, Tensor]:
    try:
        return tapped(images)
    except facts.FORWARD_ERRORS:
        # In the library's words that say nothing of sizes; where the size is not the reason they pass.
        facts.shapes(about.library, about.name, images.shape[-2], images.shape[-1])
        raise


class Tapable(Weighted[Architecture]):
    """A network with weights, see `backbone.Backbone`."""

    def runner(self, layers: Sequence[str], *, device: str, precision: str, compile: bool = False) -> Runner:
        import torch

        from pipeline.nets.modules.tapped import Tapped, without

        if compile:
            raise UserError(
                f"{self.about.arch} is tapped by hooks, which torch.compile has no place for",
                allowed="codes.compute.compile: false",
            )
        deepest = self._require_held(layers)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        beyond = set(self.about.tensors()) - set(self.about.tensors(deepest))
        module = without(self._module(), beyond).to(torch.device(device), dtype)
        module = module.to(memory_format=torch.channels_last)
        taps = [self.about.facts.by_name[name] for name in layers]
        return Runner(self.about, Tapped(module, taps, copies=True), layers)

    def trunk(self, until: str) -> Trunk:
        self._require_held([until])
        return Trunk(self.about, self._module(), until)

    def _require_held(self, layers: Iterable[str]) -> str:
        """The deepest of some layers. Raises UserError on one that the weights lack."""
        from pipeline.nets.weights.record import require_held

        deepest = backbone.deepest_of(self.about, layers)
        return require_held(self.weights, deepest)

    def _module(self) -> nn.Module:
        """The network with the weights' tensors, which it shares; what they lack has its initial values."""
        classes = self.about.num_classes({name: t.shape for name, t in self.weights.tensors.items()})
        module = self.about.library.build(self.about.name, num_classes=classes)
        module.load_state_dict(dict(self.weights.tensors), strict=False, assign=True)
        return module.eval()


class Family:
    """See `backbone.Family`."""

    def __init__(self, library: Library, more: str) -> None:
        self.library, self.more = library, more

    def archs(self) -> tuple[str, ...]:
        return ()

    def find(self, arch: str) -> Architecture | None:
        family, _, name = arch.partition(":")
        return _architecture(self.library, name) if family == self.library.name else None

    def of(self, weights: Weights) -> Tapable:
        return Tapable(_architecture(self.library, weights.arch.partition(":")[2]), weights)

    def check(self, arch: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from pipeline.nets.modules.weights import check

        return check(_architecture(self.library, arch.partition(":")[2]), tensors)

    def resolve(self, params: WeightsParams, cache: Path) -> Weights:
        from pipeline.nets.modules.weights import resolve

        return resolve(_architecture(self.library, params.arch.partition(":")[2]), params, cache)


@functools.cache
def _architecture(library: Library, name: str) -> Architecture:
    """Raises UserError on a name that the library doesn't have, with the nearest."""
    found = Architecture(library, name)
    _ = found.facts
    return found


def require_name(library: Library, name: str) -> None:
    """Raises UserError, with the three nearest names, if the library has no such network."""
    names = library.names()
    if name not in names:
        near = difflib.get_close_matches(name, names, _NEAREST, 0.0)
        raise UserError(
            f"{library.name} has no network {name!r}", allowed=f"nearest to it {', '.join(near)}", see="docs/params.md"
        )
