"""Reads Keras' .h5 (whole models and weights of keras.applications, with and without top) and .weights.h5 of Keras 3.

The i-th convolution of the file is the i-th of the architecture, and so with norms and dense layers: names differ from
one version to the next, the order does not. Kernels are (kH, kW, I, O) and (I, O), and the first dense layer reads a
map flattened with channels last. An HDF5 file from a stranger is not safe to open: the HDF5 library is not hardened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import h5py
from torch import Tensor

from pipeline import schema
from pipeline.errors import UserError
from pipeline.nets.weights.foreign import InOrder, largest_tensor, most_values, native, variance_for_our_eps
from pipeline.nets.weights.preprocessings import CAFFE

# Of keras.layers.BatchNormalization; a weights file doesn't state it.
_KERAS_EPS = 1e-3


def read(path: Path) -> InOrder:
    """The weights in a file, for images prepared as keras.applications prepares them for VGG.

    Raises UserError if the file is missing, cut short, or no weights file of Keras'.
    """
    try:
        with schema.hdf5(path) as file:
            datasets = list(_layers(path, file))
            _require_bounded(path, [dataset for layer in datasets for dataset in layer])
            found = [[native(dataset[()]) for dataset in layer] for layer in datasets if layer]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as e:
        raise UserError(f"{path} is not a whole HDF5 file of Keras' ({e}); it may have been cut short") from None
    return _by_order(path, found)


def conv_kernel(kernel: Tensor) -> Tensor:
    """(kH, kW, I, O) -> (O, I, kH, kW): ours[o, i, y, x] = theirs[y, x, i, o]."""
    return kernel.permute(3, 2, 0, 1)


def dense_kernel(kernel: Tensor) -> Tensor:
    """(I, O) -> (O, I)."""
    return kernel.T


def _by_order(path: Path, found: list[list[Tensor]]) -> InOrder:
    convs = [layer for layer in found if layer[0].ndim == 4]
    dense = [layer for layer in found if layer[0].ndim == 2]
    norms = [layer for layer in found if len(layer) == 4 and layer[0].ndim == 1]
    if not convs or len(convs) + len(dense) + len(norms) != len(found):
        raise UserError(f"{path} is not shaped like a VGG", allowed="convolutions, norms and dense layers")
    return InOrder(
        [_parts(conv_kernel(kernel), rest) for kernel, *rest in convs],
        [_norm(*parts) for parts in norms],
        [_parts(dense_kernel(kernel), rest) for kernel, *rest in dense],
        CAFFE,
        channels_last=True,
    )


def _parts(weight: Tensor, rest: list[Tensor]) -> dict[str, Tensor]:
    return {"weight": weight, "bias": rest[0]} if rest else {"weight": weight}


def _norm(gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    running_var = variance_for_our_eps(variance, _KERAS_EPS)
    return {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": running_var}


def _layers(path: Path, file: h5py.File) -> Iterator[list[h5py.Dataset]]:
    """The datasets of each layer, in the model's order."""
    root = _child(path, file, "model_weights") if "model_weights" in file else file
    if "layer_names" in root.attrs:
        for name in root.attrs["layer_names"]:
            group = _child(path, root, _text(name))
            yield [_child(path, group, _text(weight)) for weight in group.attrs["weight_names"]]
    elif "layers" in root:
        found = _child(path, root, "layers")
        for name in sorted(found, key=_natural):
            layer = _child(path, found, name)
            variables = _child(path, layer, "vars") if "vars" in layer else {}
            yield [_child(path, variables, key) for key in sorted(variables, key=int)]
    else:
        raise UserError(f"{path} is no weights file of Keras'", allowed="model.save_weights(...), model.save('x.h5')")


def _child(path: Path, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """What lies at a path below a group. Links are refused before they are followed: they may lead to any file."""
    for part in filter(None, name.split("/")):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise UserError(f"{path} keeps {group.name.rstrip('/')}/{part} in another file, or behind a link")
        group = group[part]
    return group


def _require_bounded(path: Path, datasets: list[h5py.Dataset]) -> None:
    """Raises UserError, nothing read, on values from other files and on more of them than any architecture has."""
    for dataset in datasets:
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
            raise UserError(f"{path} holds {dataset.name}, which is no array of floats")
        if dataset.external or dataset.is_virtual:
            raise UserError(f"{path} keeps {dataset.name} in another file")
        if dataset.size > largest_tensor():
            raise UserError(
                f"{path} states {dataset.size} values for {dataset.name}", allowed=f"at most {largest_tensor()}"
            )
    total = sum(dataset.size for dataset in datasets)
    if total > most_values():
        raise UserError(f"{path} states {total} values", allowed=f"at most {most_values()}")


def _natural(name: str) -> tuple[str, int]:
    """conv2d, conv2d_1, ..., conv2d_10: by stem, then by number."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
