"""Reads Keras' .h5 (whole models and weights of keras.applications, with and without top), .weights.h5 and .keras.

The i-th convolution of the file is the i-th of the architecture, and so with norms and dense layers: names differ from
one version to the next, the order does not. Layers of a model inside the model (a VGG16 as the first layer of a
Sequential) stand in its place. Kernels are (kH, kW, I, O) and (I, O), and the first dense layer reads a map flattened
with channels last. What a file may hold is checked before it is read (`plain_hdf5`), but the HDF5 library itself
is not hardened.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from torch import Tensor

from pipeline.base import hdf5_files, plain_json
from pipeline.base.budget import Budget
from pipeline.base.errors import UserError
from pipeline.nets.weights.foreign import InOrder, largest_tensor, most_values, native, variance_for_our_eps
from pipeline.nets.weights.preprocessings import CAFFE

# Of keras.layers.BatchNormalization; a weights file doesn't state it.
_KERAS_EPS = 1e-3
# Where a file keeps what trained the model.
_OPTIMISERS = ("optimizer", "optimizer_weights")
# In a .keras archive, which is a zip.
_MEMBER = "model.weights.h5"
# To find what a name stands for, which may be there as often as a file likes.
_NAME_STEPS = 20
# What h5py and zipfile raise on files that are cut short or made up.
_BROKEN = (
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile,
    EOFError, struct.error, zlib.error,
)  # fmt: skip


def read(path: Path) -> InOrder:
    """The weights in a file, for images prepared as keras.applications prepares them for VGG.

    Raises UserError if the file is missing, cut short, no weights file of Keras', or asks for more than its length
    allows.
    """
    try:
        budget = Budget(path, path.stat().st_size)
        with hdf5_files.opened(_hdf5(path), theirs=True, where=path) as file:
            layers = dict(_layers(path, file, budget))
            beside = {name: "it trained the model" for name in _OPTIMISERS if name in file}
            beside |= {
                d.name: "a count or a seed is not a weight" for layer in layers.values() for d in layer if _is_state(d)
            }
            kept = {name: [d for d in layer if not _is_state(d)] for name, layer in layers.items()}
            _require_bounded(path, [dataset for layer in kept.values() for dataset in layer], budget)
            found = {name: [native(dataset[()]) for dataset in layer] for name, layer in kept.items() if layer}
    except _BROKEN as e:
        raise UserError(f"{path} is not a whole HDF5 file of Keras' ({e}); it may have been cut short") from None
    return _by_order(path, found, beside)


def conv_kernel(kernel: Tensor) -> Tensor:
    """(kH, kW, I, O) -> (O, I, kH, kW): ours[o, i, y, x] = theirs[y, x, i, o]."""
    return kernel.permute(3, 2, 0, 1)


def dense_kernel(kernel: Tensor) -> Tensor:
    """(I, O) -> (O, I)."""
    return kernel.T


def _hdf5(path: Path) -> Path | io.BytesIO:
    """The file itself, or the one inside a .keras archive. Raises UserError if that has none."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        # Keras packs nothing: what is larger than the archive is none of Keras'.
        if _MEMBER not in archive.namelist() or archive.getinfo(_MEMBER).file_size > path.stat().st_size:
            raise UserError(f"{path} is a zip without {_MEMBER}", allowed="what Keras' model.save(...) writes")
        return io.BytesIO(archive.read(_MEMBER))


def _by_order(path: Path, found: dict[str, list[Tensor]], beside: dict[str, str]) -> InOrder:
    convs, dense, norms = [], [], []
    others: dict[str, Tensor] = {}
    for name, layer in found.items():
        axes = [tensor.ndim for tensor in layer]
        if axes in ([4], [4, 1]):
            convs.append(_parts(conv_kernel(layer[0]), layer[1:]))
        elif axes in ([2], [2, 1]):
            dense.append(_parts(dense_kernel(layer[0]), layer[1:]))
        elif axes == [1, 1, 1, 1]:
            norms.append(_norm(*layer))
        else:
            others |= {f"{name}/{i}": tensor for i, tensor in enumerate(layer)}
    if not convs:
        raise UserError(f"{path} is not shaped like a VGG", allowed="convolutions, norms and dense layers")
    return InOrder(convs, norms, dense, CAFFE, channels_last=True, others=others, beside=beside)


def _parts(weight: Tensor, rest: list[Tensor]) -> dict[str, Tensor]:
    return {"weight": weight, "bias": rest[0]} if rest else {"weight": weight}


def _norm(gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    running_var = variance_for_our_eps(variance, _KERAS_EPS)
    return {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": running_var}


def _layers(path: Path, file: h5py.File, budget: Budget) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """(name, datasets) of each layer that has some, in the model's order; of a model inside it, those of its layers."""
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        yield from _layers_by_name(root, _order(file.attrs.get("model_config", "{}")), budget)
    elif any(name in root for name in ("layers", "vars")):
        yield from _layers_by_class(root)
    else:
        raise UserError(
            f"{path} is not a weights file of Keras'", allowed="model.save_weights(...), model.save('x.keras')"
        )


def _layers_by_name(
    root: h5py.Group, order: dict[str, int], budget: Budget
) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """Of .h5: the layers that `layer_names` lists, each with its `weight_names`."""
    for name in map(_text, root.attrs["layer_names"]):
        budget.work(_NAME_STEPS)
        group = root[name]
        inner: dict[str, list[h5py.Dataset]] = {}
        for weight in map(_text, group.attrs["weight_names"]):
            budget.work(_NAME_STEPS)
            inner.setdefault(f"{name}/{weight}".rpartition("/")[0], []).append(group[weight])
        yield from _sorted(inner, order)


def _layers_by_class(group: h5py.Group) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """Of Keras 3: groups with `vars`, called by class and number, such as layers/functional/layers/conv2d_3/vars/0."""
    for name in sorted(set(group) - set(_OPTIMISERS), key=_natural):
        inner = group[name]
        if name == "vars" and len(inner):
            yield group.name, [inner[key] for key in sorted(inner, key=int)]
        elif name != "vars" and isinstance(inner, h5py.Group):
            yield from _layers_by_class(inner)


def _sorted(layers: dict[str, list[h5py.Dataset]], order: dict[str, int]) -> list[tuple[str, list[h5py.Dataset]]]:
    """The layers of a model inside the model, in its order: the file has those first that were trained last.

    `order` is a layer's place by its name, where the file holds the model. Else the numbers in names that differ in
    nothing else tell it, such as block1_conv1's; layers of other names stay as they are.
    """
    leaves = {name: name.rpartition("/")[2] for name in layers}
    if all(leaf in order for leaf in leaves.values()):
        return sorted(layers.items(), key=lambda layer: order[leaves[layer[0]]])
    names = list(layers)
    stems: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        stems.setdefault(re.sub(r"\d+", "", leaves[name]), []).append(place)
    for places in stems.values():
        alike = sorted((names[place] for place in places), key=lambda name: _numbers(leaves[name]))
        for place, name in zip(places, alike, strict=True):
            names[place] = name
    return [(name, layers[name]) for name in names]


def _numbers(name: str) -> tuple[int, ...]:
    """block1_conv2 -> 1, 2."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _order(config: str | bytes) -> dict[str, int]:
    """A layer's place by its name, in a model's description and those of the models in it."""
    names: list[str] = []

    def walk(model: Any) -> None:
        for layer in model.get("config", {}).get("layers", []):
            names.append(str(layer.get("config", {}).get("name")))
            walk(layer)

    walk(plain_json.loads(_text(config)))
    return {name: i for i, name in enumerate(names)}


def _is_state(dataset: Any) -> bool:
    """Whether this is a number alone or whole numbers: counts of steps, seeds of generators."""
    return isinstance(dataset, h5py.Dataset) and (dataset.dtype.kind in "iu" or dataset.shape == ())


def _require_bounded(path: Path, datasets: list[h5py.Dataset], budget: Budget) -> None:
    """Raises UserError, nothing read, on other things than floats and on more of them than any architecture has."""
    for dataset in datasets:
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
            raise UserError(f"{path} holds {dataset.name}, which is not an array of floats")
        if dataset.size > largest_tensor():
            raise UserError(
                f"{path} states {dataset.size} values for {dataset.name}", allowed=f"at most {largest_tensor()}"
            )
        budget.make(dataset.size * dataset.dtype.itemsize)
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
