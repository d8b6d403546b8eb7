"""The layers of every architecture, as facts: names, channels, strides, receptive fields, tensor shapes. No torch here.

Names are those of the VGG paper's Caffe models. A layer's value is after its ReLU (and batch norm, where there is one);
the value that goes into the ReLU has a name of its own, `conv1_1.pre`. fc8 has no ReLU: it holds the logits, prob their
softmax.

Sources: VGG-11/13/16/19 are configurations A, B, D, E of Simonyan and Zisserman 2015 (table 1); alexnet is the
single-column network of Krizhevsky 2014 in torchvision's variant (no local response normalisation, no groups).

Poolings round down, as torch does and as torchvision's weights were trained. Caffe rounds up: the maps are the same at
sizes that halve evenly (multiples of 32 for VGG) and one row and column larger elsewhere.

Fine-tuning makes variants of these, with other fc layers. A variant's name says all of it, so it is understood wherever
a name is looked up: `vgg16-64px-fc256-128` is vgg16 for images of 64 pixels with 256 values in fc6 and 128 in fc7.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.base.errors import UserError
from pipeline.nets.backbone import Layer

Kind = Literal["conv", "pool", "fc", "prob"]
PRE = ".pre"
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Op:
    """One step of the network. An fc's kernel is the side of the map that it was trained on (7 after VGG's pool5)."""

    name: str
    kind: Kind
    channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def relu(self) -> bool:
        return self.kind in ("conv", "fc") and self.name != "fc8"

    @property
    def norm_name(self) -> str:
        """conv1_1 -> bn1_1."""
        return self.name.replace("conv", "bn")


@dataclass(frozen=True)
class Arch:
    """An architecture. fc layers need images of at least `native_size` pixels a side."""

    name: str
    native_size: int
    batch_norm: bool
    ops: tuple[Op, ...]


def _head(width: int, map_side: int) -> tuple[Op, ...]:
    return (
        Op("fc6", "fc", width, kernel=map_side),
        Op("fc7", "fc", width),
        Op("fc8", "fc", IMAGENET_CLASSES),
        Op("prob", "prob", IMAGENET_CLASSES),
    )


def _vgg(
    name: str,
    convs: tuple[int, ...],
    *,
    batch_norm: bool = False,
    channels: tuple[int, ...] = (64, 128, 256, 512, 512),
    fc_width: int = 4096,
    native_size: int = 224,
) -> Arch:
    """`convs` and `channels` are per block; each block ends in a 2 x 2 pooling."""
    ops = []
    for block, (count, width) in enumerate(zip(convs, channels, strict=True), start=1):
        ops += [Op(f"conv{block}_{i}", "conv", width, kernel=3, padding=1) for i in range(1, count + 1)]
        ops.append(Op(f"pool{block}", "pool", width, kernel=2, stride=2))
    return Arch(name, native_size, batch_norm, (*ops, *_head(fc_width, native_size // 32)))


def _alexnet() -> Arch:
    convs = (
        Op("conv1", "conv", 64, kernel=11, stride=4, padding=2),
        Op("pool1", "pool", 64, kernel=3, stride=2),
        Op("conv2", "conv", 192, kernel=5, padding=2),
        Op("pool2", "pool", 192, kernel=3, stride=2),
        Op("conv3", "conv", 384, kernel=3, padding=1),
        Op("conv4", "conv", 256, kernel=3, padding=1),
        Op("conv5", "conv", 256, kernel=3, padding=1),
        Op("pool5", "pool", 256, kernel=3, stride=2),
    )
    return Arch("alexnet", 224, False, (*convs, *_head(4096, 6)))


_VGG_CONVS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        *(_vgg(name, convs) for name, convs in _VGG_CONVS.items()),
        *(_vgg(f"{name}_bn", convs, batch_norm=True) for name, convs in _VGG_CONVS.items()),
        _alexnet(),
        # VGG-16's topology, small enough for tests; its pool5 of 2 x 2 keeps the order of fc6's inputs visible.
        _vgg("tinyvgg", (2, 2, 3, 3, 3), channels=(4, 6, 8, 12, 16), fc_width=32, native_size=64),
    )
}


# Numbers without leading zeros: an architecture has one name.
_VARIANT = re.compile(
    r"(?P<base>[a-z0-9_]+)-(?P<side>[1-9][0-9]{0,4})px-fc(?P<fc6>[1-9][0-9]{0,5})-(?P<fc7>[1-9][0-9]{0,5})"
)


def find(arch: str) -> Arch:
    """The architecture of that name, a variant's too. Raises UserError listing the names."""
    if arch in ARCHS:
        return ARCHS[arch]
    parts = _VARIANT.fullmatch(arch)
    if parts is None or parts["base"] not in ARCHS:
        raise UserError(
            f"unknown architecture {arch!r}",
            allowed=[*ARCHS, "or BASE-SIDEpx-fcWIDTH-WIDTH for one of them with other fc layers"],
            see="`cnncodes layers`",
        )
    found = _with_fc(ARCHS[parts["base"]], int(parts["side"]), (int(parts["fc6"]), int(parts["fc7"])))
    if found.name != arch:
        raise UserError(f"{arch} is {found.name}", allowed=found.name)
    return found


def is_one(arch: str) -> bool:
    """Whether the name is that of an architecture here, or of a variant of one."""
    parts = _VARIANT.fullmatch(arch)
    return arch in ARCHS or (parts is not None and parts["base"] in ARCHS)


def is_known(arch: str) -> bool:
    """Whether `find` finds it."""
    try:
        find(arch)
    except UserError:
        return False
    return True


def variant(arch: str, side: int, widths: tuple[int, int]) -> str:
    """The name of `arch` for images of `side` pixels with fc6 and fc7 of `widths`; the base's own where it is the same.

    A variant's variant is one of its base. Raises UserError if images of that size leave no map for fc6.
    """
    parts = _VARIANT.fullmatch(arch)
    return _with_fc(find(parts["base"] if parts else arch), side, widths).name


def _with_fc(base: Arch, side: int, widths: tuple[int, int]) -> Arch:
    last_pool = next(op.name for op in reversed(base.ops) if op.kind == "pool")
    _, map_side, _ = shape(base.name, last_pool, side, side)
    new = {"fc6": Op("fc6", "fc", widths[0], kernel=map_side), "fc7": Op("fc7", "fc", widths[1])}
    ops = tuple(new.get(op.name, op) for op in base.ops)
    if side == base.native_size and ops == base.ops:
        return base
    return Arch(f"{base.name}-{side}px-fc{widths[0]}-{widths[1]}", side, base.batch_norm, ops)


@functools.cache
def layers(arch: str) -> tuple[Layer, ...]:
    """Every layer in the order in which it is computed, `.pre` before its own.

    The receptive field of fc layers is that of the convolution they are applied as, padding included.
    """
    return tuple(_layers(find(arch)))


def _layers(arch: Arch) -> Iterator[Layer]:
    stride, field = 1, 1
    for op in arch.ops:
        field += (op.kernel - 1) * stride
        stride *= op.stride
        if op.relu:
            yield Layer(op.name + PRE, op.kind, op.channels, stride, field, signed=True, inner=True)
        answers = op.name in ("fc8", "prob")
        yield Layer(op.name, op.kind, op.channels, stride, field, signed=op.name == "fc8", answers=answers)


def names(arch: str) -> tuple[str, ...]:
    """The names of `layers(arch)`, in the same order."""
    return tuple(layer.name for layer in layers(arch))


def native_size(arch: str) -> int:
    """Pixels a side that fc layers need at least."""
    return find(arch).native_size


def require(arch: str, layer: str) -> Layer:
    """The layer of that name. Raises UserError listing the right names."""
    for known in layers(arch):
        if known.name == layer:
            return known
    allowed = ", ".join(known.name for known in layers(arch) if not known.inner)
    raise UserError(
        f"{arch} has no layer {layer!r}",
        allowed=f"{allowed}; with {PRE} after a name that has a ReLU, the value before it",
        see=f"`cnncodes layers --arch {arch}`",
    )


def ops_until(arch: str, deepest: str | None = None) -> tuple[Op, ...]:
    """The steps that `deepest` needs, itself included; all of them without one. Raises UserError on a wrong name."""
    ops = find(arch).ops
    if deepest is None:
        return ops
    last = require(arch, deepest).name.removesuffix(PRE)
    return ops[: 1 + next(i for i, op in enumerate(ops) if op.name == last)]


def deepest_of(arch: str, asked: tuple[str, ...] | list[str]) -> str:
    """The deepest of some layers. Raises UserError on a wrong name or if none is asked."""
    if not asked:
        raise UserError("no layer is asked for", allowed=names(arch))
    order = names(arch)
    return max((require(arch, layer).name for layer in asked), key=order.index)


def shape(
    arch: str, layer: str, height: int, width: int, *, num_classes: int = IMAGENET_CLASSES
) -> tuple[int, int, int]:
    """(C, H, W) of a layer's value for an image of height x width pixels.

    Raises UserError on a wrong name, and if the image is too small for the layer: fc layers need `native_size`, others
    a map of at least one value.
    """
    facts = require(arch, layer)
    require_size(arch, layer, height, width)
    h, w = height, width
    for op in ops_until(arch, layer):
        if op.kind != "prob":
            h, w = ((side + 2 * op.padding - op.kernel) // op.stride + 1 for side in (h, w))
        if min(h, w) < 1:
            raise UserError(f"{layer} of {arch} has no value for an image of {height} x {width} pixels")
    return (num_classes if facts.name in ("fc8", "prob") else facts.channels, h, w)


def require_size(arch: str, layer: str, height: int, width: int) -> None:
    """Raises UserError if `layer` is an fc layer and the image is below the architecture's native size.

    torchvision's models pad such an image's last map by repeating its values; codes of that kind are not what the
    weights were trained for, so they are refused.
    """
    if require(arch, layer).kind in ("fc", "prob") and min(height, width) < native_size(arch):
        side = native_size(arch)
        raise UserError(
            f"{layer} of {arch} needs images of at least {side} x {side} pixels, got {height} x {width}",
            allowed="a larger crop, or a layer up to pool5",
        )


def tensor_shapes(
    arch: str, *, deepest: str | None = None, num_classes: int = IMAGENET_CLASSES
) -> dict[str, tuple[int, ...]]:
    """Canonical tensor name -> shape, in order, of all that `deepest` needs (without one, of the whole network).

    Convolutions are (O, I, kH, kW); fc layers (O, C*H*W) over the map in C, H, W order. Batch norm has weight, bias,
    running_mean and running_var.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    channels, norm = 3, find(arch).batch_norm
    for op in ops_until(arch, deepest):
        out = num_classes if op.name == "fc8" else op.channels
        if op.kind in ("conv", "fc"):
            square = (op.kernel, op.kernel)
            kernel = (out, channels, *square) if op.kind == "conv" else (out, channels * op.kernel**2)
            shapes[f"{op.name}.weight"] = kernel
            shapes[f"{op.name}.bias"] = (out,)
        if op.kind == "conv" and norm:
            shapes |= {f"{op.norm_name}.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")}
        channels = out
    return shapes
