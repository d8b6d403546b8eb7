"""What a reader of a foreign format gives, and the names and layouts of the frameworks, as named functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.nets import layers
from pipeline.nets.weights.record import Preprocessing

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Foreign:
    """Tensors by canonical name, where the reader knows one, not yet checked.

    `preprocessing` is what weights of this format are made for by convention, None if there is no convention.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None = None


def torch_names(arch: str) -> dict[str, str]:
    """Name in a state dict -> canonical name, in torchvision's layout and in timm's, which differ in the fc layers.

    Both number what a convolution is made of in one list: convolution, norm if there is one, ReLU; then the pooling.
    """
    theirs: dict[str, str] = {}
    position = 0
    batch_norm = layers.find(arch).batch_norm
    for op in layers.find(arch).ops:
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


def from_torch_names(arch: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under canonical names; a name that is none of torch_names' stays, for the check to report.

    The count of batches that torch's norms keep is left out. fc kernels written as convolutions, (O, C, H, W), become
    (O, C*H*W), which is the same order.
    """
    ours = torch_names(arch)
    tensors = {ours.get(name, name): t for name, t in state.items() if not name.endswith(".num_batches_tracked")}
    return {name: t.flatten(1) if name.startswith("fc") and t.ndim == 4 else t for name, t in tensors.items()}


def columns_hwc_to_chw(matrix: Tensor, channels: int) -> Tensor:
    """(O, H*W*C) -> (O, C*H*W): the first fc kernel of a network that flattens a square map with channels last.

    ours[o, (c*H + h)*W + w] = theirs[o, (h*W + w)*C + c]. A matrix that is no such kernel comes back as it is, for the
    check to report.
    """
    pixels, rest = divmod(matrix.shape[1], channels) if matrix.ndim == 2 else (0, 1)
    if rest:
        return matrix
    return matrix.reshape(-1, pixels, channels).transpose(1, 2).reshape(matrix.shape[0], -1)


def variance_for_our_eps(variance: Tensor, eps: float) -> Tensor:
    """The variance that norms alike when NORM_EPS is added to it instead of `eps`."""
    return variance + (eps - NORM_EPS)


def conv_names(arch: str) -> Iterator[str]:
    """The convolutions' names in order."""
    return (op.name for op in layers.find(arch).ops if op.kind == "conv")


def last_map_channels(arch: str) -> int:
    """Channels of the map that fc6 reads."""
    return [op.channels for op in layers.find(arch).ops if op.kind == "pool"][-1]
