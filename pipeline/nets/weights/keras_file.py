"""Reads Keras' .h5 (whole models and weights of keras.applications, with and without top) and .weights.h5 of Keras 3.

The i-th convolution of the file is the i-th of the architecture, and so with norms and dense layers: names differ from
one version to the next, the order does not. Kernels are (kH, kW, I, O) and (I, O), and the first dense layer reads a
map flattened with channels last. An HDF5 file from a stranger is not safe to open: the HDF5 library is not hardened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.nets import layers
from pipeline.nets.weights.foreign import (
    Foreign,
    columns_hwc_to_chw,
    conv_names,
    last_map_channels,
    variance_for_our_eps,
)
from pipeline.nets.weights.preprocessings import CAFFE

# Of keras.layers.BatchNormalization; a weights file doesn't state it.
_KERAS_EPS = 1e-3


def read(path: Path, arch: str) -> Foreign:
    """The weights in a file, for images prepared as keras.applications prepares them for VGG.

    Raises UserError if the file is missing, cut short, or no weights file of Keras'.
    """
    largest = max(math.prod(shape) for shape in layers.tensor_shapes(arch).values())
    try:
        with h5py.File(path, "r") as file:
            found = [[_array(path, dataset, largest) for dataset in layer] for layer in _layers(path, file)]
    except (OSError, RuntimeError, KeyError) as e:
        raise UserError(f"{path} is not a whole HDF5 file ({e}); it may have been cut short") from None
    return Foreign(_by_order(path, [layer for layer in found if layer], arch), CAFFE)


def conv_kernel(kernel: Tensor) -> Tensor:
    """(kH, kW, I, O) -> (O, I, kH, kW): ours[o, i, y, x] = theirs[y, x, i, o]."""
    return kernel.permute(3, 2, 0, 1)


def dense_kernel(kernel: Tensor) -> Tensor:
    """(I, O) -> (O, I)."""
    return kernel.T


def _by_order(path: Path, found: list[list[Tensor]], arch: str) -> dict[str, Tensor]:
    convs = [layer for layer in found if layer[0].ndim == 4]
    dense = [layer for layer in found if layer[0].ndim == 2]
    norms = [layer for layer in found if len(layer) == 4 and layer[0].ndim == 1]
    if not convs or len(convs) + len(dense) + len(norms) != len(found):
        raise UserError(f"{path} is not shaped like {arch}", allowed="convolutions, norms and dense layers")
    fcs = [op.name for op in layers.find(arch).ops if op.kind == "fc"]
    tensors: dict[str, Tensor] = {}
    for name, (kernel, *rest) in _numbered(list(conv_names(arch)), convs, "conv"):
        tensors[f"{name}.weight"] = conv_kernel(kernel)
        # A convolution before a norm is often made without a bias.
        tensors[f"{name}.bias"] = rest[0] if rest else torch.zeros(kernel.shape[3:])
    for name, (gamma, beta, mean, variance) in _numbered(
        [conv.replace("conv", "bn") for conv in conv_names(arch)], norms, "norm"
    ):
        tensors |= {f"{name}.weight": gamma, f"{name}.bias": beta, f"{name}.running_mean": mean}
        tensors[f"{name}.running_var"] = variance_for_our_eps(variance, _KERAS_EPS)
    for name, (kernel, *rest) in _numbered(fcs, dense, "dense"):
        tensors[f"{name}.weight"] = dense_kernel(kernel)
        tensors |= {f"{name}.bias": bias for bias in rest[:1]}
    if "fc6.weight" in tensors:
        tensors["fc6.weight"] = columns_hwc_to_chw(tensors["fc6.weight"], last_map_channels(arch))
    return tensors


def _layers(path: Path, file: h5py.File) -> Iterator[list[h5py.Dataset]]:
    """The datasets of each layer, in the model's order."""
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        for name in root.attrs["layer_names"]:
            group = root[_text(name)]
            yield [group[_text(weight)] for weight in group.attrs["weight_names"]]
    elif "layers" in root:
        for name in sorted(root["layers"], key=_natural):
            variables = root["layers"][name].get("vars", {})
            yield [variables[key] for key in sorted(variables, key=int)]
    else:
        raise UserError(f"{path} is no weights file of Keras'", allowed="model.save_weights(...), model.save('x.h5')")


def _array(path: Path, dataset: h5py.Dataset, largest: int) -> Tensor:
    """A dataset of floats. Refused unread: values from other files, and more of them than the architecture has."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
        raise UserError(f"{path} holds {dataset.name}, which is no array of floats")
    if dataset.external or dataset.is_virtual or dataset.file.filename != str(path):
        raise UserError(f"{path} keeps {dataset.name} in another file")
    if dataset.size > largest:
        raise UserError(f"{path} states {dataset.size} values for {dataset.name}", allowed=f"at most {largest}")
    return torch.from_numpy(np.asarray(dataset[()]))


def _numbered(names: list[str], found: list[list[Tensor]], kind: str) -> list[tuple[str, list[Tensor]]]:
    """Layers with the names of the same rank; those beyond the last name get one that the check reports."""
    extra = [f"{kind} number {i + 1}" for i in range(len(names), len(found))]
    return list(zip(names + extra, found, strict=False))


def _natural(name: str) -> tuple[str, int]:
    """conv2d, conv2d_1, ..., conv2d_10: by stem, then by number."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
