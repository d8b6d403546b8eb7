"""Reads .onnx: a chain of convolutions and fc layers shaped like the architecture, whatever its tensors are called.

The i-th Conv of the graph is the i-th convolution, the i-th Gemm or MatMul the i-th fc layer. Only constants are read;
nothing of the graph is run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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

_CHANNELS_LAST = [0, 2, 3, 1]


def read(path: Path, arch: str) -> Foreign:
    """The weights in a file; ONNX says nothing of preprocessing.

    Raises UserError if `onnx` is not installed, or the file is missing, broken, or keeps its tensors in other files.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"can't read {path} ({e.strerror})") from None
    return Foreign(_by_order(_Graph(data, str(path)), arch), None)


def constants(data: bytes, where: str) -> dict[str, Tensor]:
    """Name -> tensor of every initializer of a serialised model. Raises UserError as `read` does."""
    graph = _Graph(data, where)
    return {name: graph.tensor(name) for name in graph.initializers}


class _Graph:
    """The nodes of a model, and its constants as tensors."""

    def __init__(self, data: bytes, where: str) -> None:
        try:
            import onnx
            from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        except ImportError:
            raise UserError("reading ONNX needs the package onnx", allowed='pip install "cnn-codes[onnx]"') from None
        self.where = where
        try:
            graph = onnx.load_model_from_string(data).graph
        except DecodeError as e:
            raise UserError(f"{where} is not a whole ONNX model ({e}); it may have been cut short") from None
        self.nodes = list(graph.node)
        self.initializers: dict[str, Any] = {t.name: t for t in graph.initializer}
        self._makers: dict[str, Any] = {}
        known = {"", *self.initializers, *(value.name for value in graph.input)}
        for node in self.nodes:
            if not known.issuperset(node.input):
                raise UserError(f"{where} is not a valid ONNX model: {node.op_type} reads what no earlier node makes")
            known.update(node.output)
            self._makers |= dict.fromkeys(node.output, node)

    def tensor(self, name: str) -> Tensor:
        """A constant: an initializer, a Constant, or either of them renamed or transposed. Raises UserError if none."""
        if name in self.initializers:
            return self._decode(self.initializers[name])
        node = self._makers.get(name)
        if node is not None and node.op_type == "Constant":
            return self._decode(self.attributes(node)["value"])
        if node is not None and node.op_type == "Identity":
            return self.tensor(node.input[0])
        if node is not None and node.op_type == "Transpose":
            value = self.tensor(node.input[0])
            return value.permute(*self.attributes(node).get("perm", range(value.ndim - 1, -1, -1)))
        raise UserError(f"{self.where} computes {name}, where weights must be constants", allowed="an exported network")

    def argument(self, node: Any, i: int) -> Tensor:
        """The constant that is a node's i-th input. Raises UserError if there is none."""
        if len(node.input) <= i:
            raise UserError(f"{self.where} is not a valid ONNX model: {node.op_type} has {len(node.input)} inputs")
        return self.tensor(node.input[i])

    def is_constant(self, name: str) -> bool:
        """Whether `tensor` would give a value."""
        node = self._makers.get(name)
        if name in self.initializers or (node is not None and node.op_type == "Constant"):
            return True
        return node is not None and node.op_type in ("Identity", "Transpose") and self.is_constant(node.input[0])

    def attributes(self, node: Any) -> dict[str, Any]:
        from onnx.helper import get_attribute_value

        return {a.name: get_attribute_value(a) for a in node.attribute}

    def bias_after(self, node: Any) -> Tensor | None:
        """The constant that the next Add puts onto a node's output, if one does."""
        for other in self.nodes:
            if other.op_type == "Add" and node.output[0] in other.input:
                constant = [name for name in other.input if self.is_constant(name)]
                return self.tensor(constant[0]).flatten() if constant else None
        return None

    def _decode(self, proto: Any) -> Tensor:
        from onnx import TensorProto, numpy_helper

        if proto.data_location == TensorProto.EXTERNAL:
            raise UserError(f"{self.where} keeps its tensors in other files", allowed="a model saved as one file")
        try:
            return torch.from_numpy(np.array(numpy_helper.to_array(proto)))
        except (ValueError, TypeError) as e:
            raise UserError(f"{self.where} has a broken tensor {proto.name} ({e})") from None


def _by_order(graph: _Graph, arch: str) -> dict[str, Tensor]:
    convs = [node for node in graph.nodes if node.op_type == "Conv"]
    norms = [node for node in graph.nodes if node.op_type == "BatchNormalization"]
    dense = [
        n for n in graph.nodes if n.op_type in ("Gemm", "MatMul") and len(n.input) > 1 and graph.is_constant(n.input[1])
    ]
    if not convs:
        raise UserError(f"{graph.where} has no convolutions", allowed=f"a network shaped like {arch}")

    tensors: dict[str, Tensor] = {}
    for name, node in _numbered(conv_names(arch), convs, "conv"):
        bias = graph.argument(node, 2) if len(node.input) > 2 else graph.bias_after(node)
        tensors[f"{name}.weight"] = graph.argument(node, 1)
        # Exporters drop a convolution's bias where a norm follows; there it is zero.
        tensors[f"{name}.bias"] = torch.zeros(tensors[f"{name}.weight"].shape[:1]) if bias is None else bias
    for name, node in _numbered((n.replace("conv", "bn") for n in conv_names(arch)), norms, "norm"):
        parts = ("weight", "bias", "running_mean", "running_var")
        tensors |= {f"{name}.{part}": graph.argument(node, i) for i, part in enumerate(parts, start=1)}
        eps = graph.attributes(node).get("epsilon", 1e-5)
        tensors[f"{name}.running_var"] = variance_for_our_eps(tensors[f"{name}.running_var"], eps)
    for name, node in _numbered((op.name for op in layers.find(arch).ops if op.kind == "fc"), dense, "fc"):
        tensors |= _dense(graph, name, node)
    if dense and "fc6.weight" in tensors and _flattens_channels_last(graph, convs[-1], dense[0]):
        tensors["fc6.weight"] = columns_hwc_to_chw(tensors["fc6.weight"], last_map_channels(arch))
    return tensors


def _dense(graph: _Graph, name: str, node: Any) -> dict[str, Tensor]:
    """A Gemm's or a MatMul's kernel as (O, I), and its bias."""
    attributes = graph.attributes(node)
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise UserError(f"{graph.where} scales the product of {name}", allowed="Gemm with alpha = beta = 1")
    kernel = graph.argument(node, 1)
    if not attributes.get("transB", 0):
        kernel = kernel.transpose(0, -1)
    bias = graph.argument(node, 2) if len(node.input) > 2 else graph.bias_after(node)
    tensors = {f"{name}.weight": kernel}
    return tensors if bias is None else tensors | {f"{name}.bias": bias}


def _flattens_channels_last(graph: _Graph, last_conv: Any, first_dense: Any) -> bool:
    """Whether the map is turned to H, W, C between the last convolution and the first fc layer."""
    between = graph.nodes[graph.nodes.index(last_conv) : graph.nodes.index(first_dense)]
    turns = [graph.attributes(n).get("perm") for n in between if n.op_type == "Transpose"]
    return bool(turns) and list(turns[-1] or ()) == _CHANNELS_LAST


def _numbered(names: Iterable[str], nodes: list[Any], kind: str) -> list[tuple[str, Any]]:
    """Nodes with the names of the same rank; those beyond the last name get one that the check reports."""
    known = list(names)
    extra = [f"{kind} number {i + 1}" for i in range(len(known), len(nodes))]
    return list(zip(known + extra, nodes, strict=False))
