"""What a reader of a foreign format gives, and the names and layouts of the frameworks, as named functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.nets.vgg import facts
from pipeline.nets.weights.record import Preprocessing

NORM_EPS = 1e-5
WHOLE = "."
T = TypeVar("T")


class Content(Protocol):
    """What a file holds. Nothing of it is checked yet.

    `preprocessing` is what the file states, or what weights of its format are made for by convention, None if neither.
    """

    @property
    def preprocessing(self) -> Preprocessing | None: ...

    def named(self, arch: str) -> dict[str, Tensor]:
        """The tensors under canonical names, were they of `arch`; one that has none keeps a name for the check."""
        ...

    def shapes(self, arch: str) -> dict[str, tuple[int, ...]]:
        """The shapes of `named`, without its work."""
        ...

    def own(self) -> dict[str, Tensor]:
        """The tensors under names of the file's own, or by their kind and rank."""
        ...

    def parts(self, arch: str) -> tuple[str, ...]:
        """Where in the file the sets of weights are that fit `arch` alike, first the one that `named` gives.

        `WHOLE` is the file itself. More than one is for the user to choose from.
        """
        ...

    def aside(self, arch: str) -> dict[str, str]:
        """What else the file holds, and `named` doesn't: name -> what it is."""
        ...


@dataclass(frozen=True)
class Canonical:
    """Tensors of a format whose names are the canonical ones."""

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing | None

    def named(self, arch: str) -> dict[str, Tensor]:
        return dict(self.tensors)

    def shapes(self, arch: str) -> dict[str, tuple[int, ...]]:
        return shapes_of(self.tensors)

    def own(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def parts(self, arch: str) -> tuple[str, ...]:
        return (WHOLE,)

    def aside(self, arch: str) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class InOrder:
    """Layers of a format whose names say nothing: the i-th convolution is the i-th of the architecture, and so on.

    Each layer is part -> tensor with the parts and layouts of canonical names: `weight` (O, I, kH, kW) or (O, I) and
    `bias`; norms also `running_mean` and `running_var` for NORM_EPS. `channels_last`: the first fc layer reads a map
    flattened as H, W, C. `others` are weights of no such layer, for the check to report; `beside`: what `aside` gives.
    """

    convs: Sequence[Mapping[str, Tensor]]
    norms: Sequence[Mapping[str, Tensor]]
    fcs: Sequence[Mapping[str, Tensor]]
    preprocessing: Preprocessing | None
    channels_last: bool = False
    others: Mapping[str, Tensor] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    def named(self, arch: str) -> dict[str, Tensor]:
        tensors = self._joined(*_names(arch))
        if self.channels_last and self.convs and "fc6.weight" in tensors:
            channels = self.convs[-1]["weight"].shape[0]
            tensors["fc6.weight"] = columns_hwc_to_chw(tensors["fc6.weight"], channels)
        return tensors

    def shapes(self, arch: str) -> dict[str, tuple[int, ...]]:
        return shapes_of(self._joined(*_names(arch)))

    def own(self) -> dict[str, Tensor]:
        return self._joined([], [], [])

    def parts(self, arch: str) -> tuple[str, ...]:
        return (WHOLE,)

    def aside(self, arch: str) -> dict[str, str]:
        return dict(self.beside)

    def _joined(self, convs: list[str], norms: list[str], fcs: list[str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, conv in _numbered(convs, self.convs, "conv"):
            tensors |= _prefixed(name, _with_bias(conv))
        for name, norm in _numbered(norms, self.norms, "norm"):
            tensors |= _prefixed(name, norm)
        for name, fc in _numbered(fcs, self.fcs, "fc"):
            tensors |= _prefixed(name, _with_bias(fc))
        return tensors | dict(self.others)


def _names(arch: str) -> tuple[list[str], list[str], list[str]]:
    """Of the convolutions, their norms, and the fc layers."""
    convs = list(conv_names(arch))
    return convs, [n.replace("conv", "bn") for n in convs], [op.name for op in facts.find(arch).ops if op.kind == "fc"]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def native(array: np.ndarray) -> Tensor:
    """A copy in this machine's byte order; of floats that torch has not, in float32."""
    dtype = array.dtype.newbyteorder("=") if array.dtype in (np.float16, np.float32, np.float64) else np.float32
    return torch.from_numpy(np.array(array, dtype, order="C"))


def _prefixed(name: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _with_bias(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros where there is none: layers before a norm are often made so, and exporters drop a bias of zeros."""
    return {"weight": parts["weight"], "bias": torch.zeros(parts["weight"].shape[:1]), **parts}


def _numbered(names: list[str], found: Iterable[T], kind: str) -> Iterator[tuple[str, T]]:
    """Layers with the names of the same rank; those beyond the last name get one that the check reports."""
    for i, layer in enumerate(found):
        yield names[i] if i < len(names) else f"{kind} number {i + 1}", layer


@functools.cache
def largest_tensor() -> int:
    """Values of the largest tensor of any architecture: what a file states beyond it is a lie, or no VGG."""
    return max(math.prod(shape) for arch in facts.ARCHS for shape in facts.tensor_shapes(arch).values())


@functools.cache
def most_values() -> int:
    """Twice the values of the largest architecture: what one file may make a reader hold in memory."""
    return 2 * max(sum(map(math.prod, facts.tensor_shapes(arch).values())) for arch in facts.ARCHS)


def torch_names(arch: str) -> dict[str, str]:
    """Name in a state dict -> canonical name, in torchvision's layout and in timm's, which differ in the fc layers.

    Both number what a convolution is made of in one list: convolution, norm if there is one, ReLU; then the pooling.
    """
    theirs: dict[str, str] = {}
    position = 0
    batch_norm = facts.find(arch).batch_norm
    for op in facts.find(arch).ops:
        if op.kind == "conv":
            theirs[f"features.{position}"] = op.name
            if batch_norm:
                theirs[f"features.{position + 1}"] = op.norm_name
            position += 3 if batch_norm else 2
        elif op.kind == "pool":
            position += 1
    # The list of fc layers in torchvision: AlexNet's dropout stands before each fc, VGG's after its ReLU.
    positions = (1, 4, 6) if arch == "alexnet" else (0, 3, 6)
    theirs |= {f"classifier.{i}": fc for i, fc in zip(positions, ("fc6", "fc7", "fc8"), strict=True)}
    theirs |= {"pre_logits.fc1": "fc6", "pre_logits.fc2": "fc7", "head.fc": "fc8"}
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": f"{ours}.{part}" for name, ours in theirs.items() for part in parts}


def known_names(arch: str) -> dict[str, str]:
    """`torch_names`, those of the convolutions' list saved alone, which lack `features.`, and the canonical ones."""
    theirs = torch_names(arch)
    alone = {name.removeprefix("features."): ours for name, ours in theirs.items() if name.startswith("features.")}
    return theirs | alone | {ours: ours for ours in theirs.values()}


def ours_of(name: str, tensor: Tensor) -> Tensor:
    """A tensor of torch's under its canonical name, in our layout.

    fc kernels written as convolutions, (O, C, H, W), become (O, C*H*W), which is the same order.
    """
    return tensor.flatten(1) if name.startswith("fc") and tensor.ndim == 4 else tensor


def columns_hwc_to_chw(matrix: Tensor, channels: int) -> Tensor:
    """(O, H*W*C) -> (O, C*H*W): the first fc kernel of a network that flattens a square map with channels last.

    ours[o, (c*H + h)*W + w] = theirs[o, (h*W + w)*C + c]. A matrix that is no such kernel comes back as it is, for the
    check to report.
    """
    pixels, rest = divmod(matrix.shape[1], channels) if matrix.ndim == 2 and channels else (0, 1)
    if rest:
        return matrix
    return matrix.reshape(-1, pixels, channels).transpose(1, 2).reshape(matrix.shape[0], -1)


def variance_for_our_eps(variance: Tensor, eps: float) -> Tensor:
    """The variance that norms alike when NORM_EPS is added to it instead of `eps`."""
    return variance + (eps - NORM_EPS)


def conv_names(arch: str) -> Iterator[str]:
    """The convolutions' names in order."""
    return (op.name for op in facts.find(arch).ops if op.kind == "conv")
