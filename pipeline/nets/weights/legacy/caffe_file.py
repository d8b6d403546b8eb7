"""Reads .caffemodel: Caffe's NetParameter in protocol buffers. No Caffe and no schema file is needed.

From caffe.proto: NetParameter.layers = 2 (V1LayerParameter: name = 4, blobs = 6), NetParameter.layer = 100
(LayerParameter: name = 1, blobs = 7), BlobProto (num, channels, height, width = 1..4; data = 5; shape = 7;
double_data = 8), BlobShape.dim = 1. Caffe's convolutions are (O, I, kH, kW) and its inner products (O, C*H*W), as ours.

Layers go by their names, which are the canonical ones in the VGG paper's models. With a deploy.prototxt they go by
their order in it: the i-th convolution there is the i-th of the architecture, whatever it is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.base.budget import OBJECT_BYTES, Budget
from pipeline.base.errors import UserError
from pipeline.nets import protobuf
from pipeline.nets.protobuf import BrokenError
from pipeline.nets.weights.foreign import Canonical, InOrder
from pipeline.nets.weights.legacy import prototxt
from pipeline.nets.weights.preprocessings import CAFFE

# Field of the layers in NetParameter -> fields of name and blobs in a layer.
_LAYER_FIELDS = {2: (4, 6), 100: (1, 7)}
_PARTS = ("weight", "bias")
_MOST_AXES = 32  # of Caffe's own blobs
# Of a tensor with its name, whatever it holds.
_BLOB_BYTES = 16 * OBJECT_BYTES


def read(path: Path, deploy: Path | None = None) -> Canonical | InOrder:
    """The weights in a file, with the description of its network in `deploy` if there is one.

    Raises UserError if a file can't be read, was cut short, is of the oldest layer format, a blob's shape and data
    disagree, the two files are of different networks, or the model asks for more than its length allows.
    """
    try:
        data = memoryview(path.read_bytes())
    except OSError as e:
        raise UserError(f"can't read {path} ({e.strerror})") from None
    try:
        tensors = dict(_tensors(data, Budget(path, len(data))))
    except BrokenError as e:
        raise UserError(f"{path} is not a whole Caffe model ({e}); it may have been cut short") from None
    if not tensors:
        raise UserError(f"{path} holds no layers with weights", allowed="a .caffemodel of V1 or V2 layers")
    return Canonical(tensors, CAFFE) if deploy is None else _by_deploy(path, tensors, deploy)


def _by_deploy(path: Path, tensors: dict[str, Tensor], deploy: Path) -> InOrder:
    """The layers that both files have, up to the first that the model has no weights for, or that reads what no
    architecture here computes. The description may stop before the model does, but has no holes."""
    described = prototxt.read(deploy)
    kinds: dict[str, list[dict[str, Tensor]]] = {"conv": [], "fc": []}
    beside = dict.fromkeys(described.foreign, "it is not computed here")
    problems: list[str] = []
    kept: list[str] = []
    end = ""
    for layer in described.layers:
        parts = {part: tensors[f"{layer.name}.{part}"] for part in _PARTS if f"{layer.name}.{part}" in tensors}
        rows = parts["weight"].shape[0] if "weight" in parts else None
        if end or layer.after:
            beside[layer.name] = f"it comes after {end or layer.after}"
        elif rows is None and kept:
            beside[layer.name], end = "the model has no weights for it", layer.name
        elif rows is None:
            problems.append(f"{layer.name} has no weights in the model")
        elif rows != layer.outputs:
            problems.append(f"{layer.name} has {rows} outputs in the model, {layer.outputs} in {deploy.name}")
        else:
            kinds[layer.kind].append(parts)
            kept.append(layer.name)
    known = {layer.name for layer in described.layers}
    held = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    last = max((held.index(name) for name in kept), default=-1)
    problems += [f"{name} is not in {deploy.name}" for name in held[: last + 1] if name not in known]
    if problems:
        raise UserError(f"{path} and {deploy} are of different networks: {'; '.join(problems)}")
    beside |= {name: f"it is not in {deploy.name}" for name in held if name not in known}
    return InOrder(kinds["conv"], [], kinds["fc"], described.preprocessing or CAFFE, beside=beside)


def _tensors(net: memoryview, budget: Budget) -> Iterator[tuple[str, Tensor]]:
    for field, layer in protobuf.fields(net):
        if field not in _LAYER_FIELDS or not isinstance(layer, memoryview):
            continue
        name_field, blobs_field = _LAYER_FIELDS[field]
        name, blobs = "", []
        for inner, value in protobuf.fields(layer):
            if inner == name_field and isinstance(value, memoryview):
                name = bytes(value).decode("utf-8", "replace")
            elif inner == blobs_field and isinstance(value, memoryview):
                budget.make(_BLOB_BYTES + len(name) + len(value))
                blobs.append(_blob(value))
        for i, blob in enumerate(blobs):
            part = _PARTS[i] if i < len(_PARTS) else f"blob {i}"
            # Before BlobShape every blob had four axes: a bias is (1, 1, 1, O), an inner product (1, 1, O, I).
            axes = 1 if part == "bias" else 2 if blob.ndim == 4 and blob.shape[:2] == (1, 1) else blob.ndim
            yield f"{name}.{part}", blob.reshape(blob.shape[blob.ndim - axes :]) if _only_ones(blob, axes) else blob


def _only_ones(blob: Tensor, axes: int) -> bool:
    """Whether all but the last `axes` axes are of size 1, so that they can go."""
    return math.prod(blob.shape[: max(blob.ndim - axes, 0)]) == 1


def _blob(message: memoryview) -> Tensor:
    legacy = {1: 1, 2: 1, 3: 1, 4: 1}
    dims: list[int] | None = None
    # Values written one by one are joined as bytes: an array for each would take many times the file's size.
    values = {4: bytearray(), 8: bytearray()}
    for field, value in protobuf.fields(message):
        if field in legacy and isinstance(value, int):
            legacy[field] = value
        elif field in (5, 8) and isinstance(value, memoryview):
            width = 4 if field == 5 else 8
            if len(value) % width:
                raise BrokenError(f"{len(value)} bytes are no whole number of values")
            values[width] += value
        elif field == 7 and isinstance(value, memoryview):
            dims = _dims(value)
    shape = dims if dims is not None else list(legacy.values())
    data = np.frombuffer(values[8], "<f8") if values[8] else np.frombuffer(values[4], "<f4")
    if math.prod(shape) != data.size:
        raise BrokenError(f"a blob of shape {tuple(shape)} holds {data.size} values")
    return torch.from_numpy(data.reshape(shape))


def _dims(message: memoryview) -> list[int]:
    dims: list[int] = []
    for field, value in protobuf.fields(message):
        if field == 1 and isinstance(value, int):
            dims.append(value)
        elif field == 1:
            assert isinstance(value, memoryview)
            at = 0
            while at < len(value) and len(dims) <= _MOST_AXES:
                dim, at = protobuf.varint(value, at)
                dims.append(dim)
        if len(dims) > _MOST_AXES:
            raise BrokenError("a blob has more axes than Caffe's own")
    return dims
