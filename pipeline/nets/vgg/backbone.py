"""VGG and AlexNet as a backbone. Facts need no torch; a runner, a trunk and a head load it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import UserError
from pipeline.config import WeightsParams
from pipeline.nets.backbone import Layer
from pipeline.nets.vgg import facts
from pipeline.nets.weighted import Weighted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.nets.vgg.head import VggHead
    from pipeline.nets.vgg.network import Network
    from pipeline.nets.weights import Weights

# Earlier layers tell edges and colours; from here on one may be the best for data unlike the source's.
_BLOCK, _CONVOLUTION = "3", 3
_LOGITS = "fc8"
_HEAD = "vgg"


@dataclass(frozen=True)
class Architecture:
    """The facts of one architecture, see `backbone.Architecture`."""

    arch: str
    family: str = "vgg"
    logits: str = _LOGITS
    heads: tuple[str, ...] = (_HEAD,)

    @property
    def codes(self) -> dict[str, Any]:
        """None: the presets' keys suit every one."""
        return {}

    @property
    def native_size(self) -> int:
        return facts.native_size(self.arch)

    @property
    def advised_from(self) -> str:
        """conv3_3; of an architecture without it, the last convolution of its third block."""
        third = [layer.name for layer in self._of_kind("conv") if layer.name.startswith(f"conv{_BLOCK}")]
        return third[:_CONVOLUTION][-1]

    @property
    def short(self) -> str:
        """The deepest convolution."""
        return self._of_kind("conv")[-1].name

    @property
    def long(self) -> str:
        """The last pooling."""
        return self._of_kind("pool")[-1].name

    top = long
    trainable = True
    note = "; values after the ReLU, NAME.pre is before it"

    def require_size(self, height: int, width: int) -> None:
        """It takes any; what a layer needs, `shape` says."""

    def layers(self) -> tuple[Layer, ...]:
        return facts.layers(self.arch)

    def require(self, layer: str) -> Layer:
        return facts.require(self.arch, layer)

    def shape(self, layer: str, height: int, width: int, *, num_classes: int | None = None) -> tuple[int, int, int]:
        return facts.shape(self.arch, layer, height, width, num_classes=num_classes or facts.IMAGENET_CLASSES)

    def tensors(self, until: str | None = None) -> tuple[str, ...]:
        return tuple(facts.tensor_shapes(self.arch, deepest=until))

    def before(self, layer: str) -> tuple[str, ...]:
        order = facts.names(self.arch)
        place = order.index(self.require(layer).name)
        owners = dict.fromkeys(_layer_of(name) for name in self.tensors())
        return tuple(name for name in owners if order.index(_computed_by(name)) < place)

    def num_classes(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Rows of fc8, ImageNet's 1000 without one."""
        last = shapes.get(f"{_LOGITS}.bias")
        return last[0] if last else facts.IMAGENET_CLASSES

    def values_at_once(self, asked: Collection[str], height: int, width: int) -> tuple[int, int]:
        norm = facts.find(self.arch).batch_norm
        before, kept, highest = 3 * height * width, 0, 0
        for op in facts.ops_until(self.arch, facts.deepest_of(self.arch, sorted(asked))):
            channels, h, w = self.shape(op.name, height, width)
            made = channels * h * w
            pre = op.name + facts.PRE in asked
            # Batch norm, and a ReLU whose input is kept, make a second map.
            highest = max(highest, kept + before + made * (2 if pre or (norm and op.kind == "conv") else 1))
            kept += made * (pre + (op.name in asked))
            before = 0 if op.name in asked else made
        return highest, kept + before

    def trunk(self, until: str) -> Trunk:
        from pipeline.nets.vgg.network import Network

        return Trunk(Network(self.arch, deepest=until))

    def head(self, kind: str, *, size: int, widths: Sequence[int], k: int, dropout: float) -> VggHead:
        from pipeline.nets.vgg.head import VggHead

        self._require_head(kind)
        channels, height, width = self.shape(self.top, size, size)
        return VggHead(channels * height * width, widths, k, dropout=dropout)

    def with_head(self, kind: str, *, size: int, widths: Sequence[int]) -> str:
        self._require_head(kind)
        return facts.variant(self.arch, size, (widths[0], widths[1]))

    def _of_kind(self, kind: str) -> list[Layer]:
        return [layer for layer in self.layers() if layer.kind == kind and not layer.inner]

    def _require_head(self, kind: str) -> None:
        if kind not in self.heads:
            raise UserError(f"{self.arch} has no head {kind!r}", allowed=self.heads)


class Trunk:
    """`Network` up to its last layer, see `backbone.Trunk`."""

    def __init__(self, network: Network) -> None:
        self.module = network
        self.until = network.deepest

    def __call__(self, images: Tensor) -> Tensor:
        found: Tensor = self.module(images, (self.until,))[self.until]
        return found

    def plain(self) -> nn.Module:
        from pipeline.nets.vgg.network import UpTo

        return UpTo(self.module, self.until)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        found: dict[str, list[str]] = {}
        for layer in dict.fromkeys(_layer_of(name) for name, _ in self.module.named_parameters()):
            found.setdefault(_block(layer), []).append(layer)
        return tuple(map(tuple, found.values()))

    def layer_of(self, parameter: str) -> str:
        return _layer_of(parameter)


class Runner:
    """See `backbone.Runner`."""

    def __init__(self, network: Network, layers: Sequence[str], *, compile: bool) -> None:
        import torch

        self._network, self._layers = network, list(layers)
        self._call: Callable[..., dict[str, Tensor]] = torch.compile(network) if compile else network

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        return self._call(x, self._layers)


class Vgg(Weighted[Architecture]):
    """An architecture with weights, see `backbone.Backbone`."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(Architecture(weights.arch), weights)

    def runner(self, layers: Sequence[str], *, device: str, precision: str, compile: bool = False) -> Runner:
        import torch

        from pipeline.nets.vgg.network import Network

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        network = Network.of(self.weights, deepest=facts.deepest_of(self.about.arch, list(layers)))
        network = network.to(torch.device(device), dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Runner(network, layers, compile=compile)

    def trunk(self, until: str) -> Trunk:
        from pipeline.nets.vgg.network import Network

        return Trunk(Network.of(self.weights, deepest=until))


class Vggs:
    """See `backbone.Family`."""

    more = "or BASE-SIDEpx-fcWIDTH-WIDTH for one of them with other fc layers"

    def archs(self) -> tuple[str, ...]:
        return tuple(facts.ARCHS)

    def find(self, arch: str) -> Architecture | None:
        return Architecture(facts.find(arch).name) if facts.is_one(arch) else None

    def of(self, weights: Weights) -> Vgg:
        return Vgg(weights)

    def check(self, arch: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from pipeline.nets.weights.check import check

        return check(arch, tensors)

    def resolve(self, params: WeightsParams, cache: Path) -> Weights:
        from pipeline.nets.weights.sources import of_vgg

        return of_vgg(params, cache)


FAMILY = Vggs()


def _layer_of(parameter: str) -> str:
    """conv1_1.weight -> conv1_1, bn1_1.weight -> bn1_1."""
    return parameter.rpartition(".")[0]


def _computed_by(layer: str) -> str:
    """A norm's value is that of its convolution: bn1_1 -> conv1_1."""
    return layer.replace("bn", "conv")


def _block(layer: str) -> str:
    """conv5_3 -> 5."""
    match = re.search(r"[0-9]+", layer)
    assert match is not None
    return match[0]
