"""Reads .onnx: a chain of convolutions and fc layers shaped like the architecture, whatever its tensors are called.

The i-th Conv of the graph is the i-th convolution, the i-th Gemm or MatMul the i-th fc layer. Only constants are read;
nothing of the graph is run. Tensors may lie in files beside the model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.base.budget import OBJECT_BYTES, Budget
from pipeline.base.errors import UserError
from pipeline.nets import external_data
from pipeline.nets.external_data import FLOAT_BYTES
from pipeline.nets.weights.foreign import InOrder, most_values, native, variance_for_our_eps

_CHANNELS_LAST = [0, 2, 3, 1]
# Nodes that only rename or turn what they read.
_VIEWS = ("Identity", "Transpose")
# Of one tensor, whatever it holds.
_TENSOR_STEPS, _TENSOR_BYTES = 20, 16 * OBJECT_BYTES


def read(path: Path) -> InOrder:
    """The layers in a file; ONNX says nothing of preprocessing.

    Raises UserError if `onnx` is not installed, or the file is missing, broken, asks for more than its length allows,
    or keeps its tensors in files that are not beside it.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"can't read {path} ({e.strerror})") from None
    return _by_order(_Graph(data, str(path), path))


def constants(data: bytes, where: str) -> dict[str, Tensor]:
    """Name -> tensor of every initializer of floats of a serialised model. Raises UserError as `read` does."""
    graph = _Graph(data, where)
    return {name: graph.tensor(name) for name, proto in graph.initializers.items() if proto.data_type in FLOAT_BYTES}


class _Graph:
    """The nodes of a model, and its constants as tensors."""

    def __init__(self, data: bytes, where: str, path: Path | None = None) -> None:
        """`path`: where the model lies, None if its folder has no part in it."""
        self.where = where
        self._path = path
        graph = external_data.model(data, where).graph
        self.nodes = list(graph.node)
        self.initializers: dict[str, Any] = {t.name: t for t in graph.initializer}
        self._makers: dict[str, Any] = {}
        self._values = 0
        self._budget = Budget(where, len(data))
        self._used: set[str] = set()
        self._adds: dict[str, Any] = {}  # the first Add that reads a value
        known = {"", *self.initializers, *(value.name for value in graph.input)}
        for node in self.nodes:
            if not known.issuperset(node.input):
                raise UserError(f"{where} is not a valid ONNX model: {node.op_type} reads what no earlier node makes")
            # Each value has one maker (ONNX's graphs are in single-assignment form), so that nothing reads itself.
            if not known.isdisjoint(filter(None, node.output)):
                raise UserError(f"{where} is not a valid ONNX model: two nodes make {node.output[0]}")
            known.update(node.output)
            self._makers.update(dict.fromkeys(node.output, node))
            if node.op_type == "Add":
                for name in node.input:
                    self._adds.setdefault(name, node)

    def tensor(self, name: str) -> Tensor:
        """A constant: an initializer, a Constant, or either of them renamed or transposed. Raises UserError if none."""
        turns = []
        source, node = name, self._makers.get(name)
        while source not in self.initializers and node is not None and node.op_type in _VIEWS and node.input:
            self._budget.work()
            if node.op_type == "Transpose":
                turns.append(self.attributes(node).get("perm"))
            source, node = node.input[0], self._makers.get(node.input[0])
        proto = self.initializers.get(source)
        if proto is None and node is not None and node.op_type == "Constant":
            proto = self.attributes(node).get("value")
        if proto is None:
            raise UserError(
                f"{self.where} computes {name}, where weights must be constants", allowed="an exported network"
            )
        self._used.add(source)
        value = self._decode(proto)
        for turn in reversed(turns):
            perm = list(range(value.ndim - 1, -1, -1) if turn is None else turn)
            if sorted(perm) != list(range(value.ndim)):
                raise UserError(f"{self.where} is not a valid ONNX model: it transposes {name} by {perm[:8]}")
            value = value.permute(*perm)
        return value

    def unused(self) -> dict[str, Tensor]:
        """Constants of several floats that `tensor` never gave, such as a mean that the graph itself takes away."""
        constants = {n.output[0] for n in self.nodes if n.op_type == "Constant"} - self._used
        protos = {name: self.attributes(self._makers[name]).get("value") for name in constants}
        protos |= {name: proto for name, proto in self.initializers.items() if name not in self._used}
        return {
            name: self._decode(proto)
            for name, proto in sorted(protos.items())
            if proto is not None and proto.data_type in FLOAT_BYTES and math.prod(proto.dims) > 1
        }

    def argument(self, node: Any, i: int) -> Tensor:
        """The constant that is a node's i-th input. Raises UserError if there is none."""
        if len(node.input) <= i:
            raise UserError(f"{self.where} is not a valid ONNX model: {node.op_type} has {len(node.input)} inputs")
        return self.tensor(node.input[i])

    def is_constant(self, name: str) -> bool:
        """Whether `tensor` would give a value."""
        node = self._makers.get(name)
        while name not in self.initializers and node is not None and node.op_type in _VIEWS and node.input:
            self._budget.work()
            name, node = node.input[0], self._makers.get(node.input[0])
        return name in self.initializers or (node is not None and node.op_type == "Constant")

    def attributes(self, node: Any) -> dict[str, Any]:
        from onnx.helper import get_attribute_value

        self._budget.work(len(node.attribute))
        return {a.name: get_attribute_value(a) for a in node.attribute}

    def bias_after(self, node: Any) -> Tensor | None:
        """The constant that the next Add puts onto a node's output, if one does."""
        add = self._adds.get(node.output[0]) if node.output else None
        constant = [] if add is None else [name for name in add.input if self.is_constant(name)]
        return self.tensor(constant[0]).flatten() if constant else None

    def _decode(self, proto: Any) -> Tensor:
        from onnx import TensorProto, numpy_helper

        if proto.data_type not in FLOAT_BYTES:
            raise UserError(f"{self.where} has weights {proto.name} that are no floats")
        external = external_data.is_external(proto)
        if external and self._path is None:
            raise UserError(f"{self.where} keeps its tensors in other files", allowed="a model saved as one file")
        # Each value takes two bytes of the file at least: a shape beyond that is a lie, and never allocated.
        if any(n < 0 for n in proto.dims) or (not external and math.prod(proto.dims) > proto.ByteSize() // 2):
            raise UserError(f"{self.where} has a broken tensor {proto.name}: its bytes are not those of its shape")
        # Many nodes may name one tensor, and each gets a copy.
        self._budget.work(_TENSOR_STEPS)
        self._budget.make(_TENSOR_BYTES + 4 * math.prod(proto.dims) * (not external))
        self._values += math.prod(proto.dims)
        if self._values > most_values():
            raise UserError(
                f"{self.where} has more than {most_values()} weights", allowed="a network shaped like a VGG"
            )
        if external and self._path is not None:
            held = external_data.read(self._path, proto)
            proto = TensorProto(name=proto.name, dims=proto.dims, data_type=proto.data_type, raw_data=held)
        try:
            return native(numpy_helper.to_array(proto))
        except (ValueError, TypeError) as e:
            raise UserError(f"{self.where} has a broken tensor {proto.name} ({e})") from None


def _by_order(graph: _Graph) -> InOrder:
    convs = [node for node in graph.nodes if node.op_type == "Conv"]
    norms = [node for node in graph.nodes if node.op_type == "BatchNormalization"]
    dense = [
        n for n in graph.nodes if n.op_type in ("Gemm", "MatMul") and len(n.input) > 1 and graph.is_constant(n.input[1])
    ]
    if not convs:
        raise UserError(f"{graph.where} has no convolutions", allowed="a network shaped like a VGG")
    layers = (
        [_conv(graph, node) for node in convs],
        [_norm(graph, node) for node in norms],
        [_dense(graph, i, node) for i, node in enumerate(dense, start=1)],
    )
    channels_last = bool(dense) and _flattens_channels_last(graph, convs[-1], dense[0])
    return InOrder(*layers, None, channels_last=channels_last, others=graph.unused())


def _conv(graph: _Graph, node: Any) -> dict[str, Tensor]:
    """Exporters drop a convolution's bias where a norm follows, or add it in a node of its own."""
    bias = graph.argument(node, 2) if len(node.input) > 2 else graph.bias_after(node)
    weight = graph.argument(node, 1)
    if weight.ndim != 4:
        raise UserError(f"{graph.where} has a convolution whose kernel has {weight.ndim} axes", allowed="4")
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def _norm(graph: _Graph, node: Any) -> dict[str, Tensor]:
    parts = ("weight", "bias", "running_mean", "running_var")
    norm = {part: graph.argument(node, i) for i, part in enumerate(parts, start=1)}
    eps = graph.attributes(node).get("epsilon", 1e-5)
    if not isinstance(eps, float):
        raise UserError(f"{graph.where} is not a valid ONNX model: a norm's epsilon is not a number")
    return norm | {"running_var": variance_for_our_eps(norm["running_var"], eps)}


def _dense(graph: _Graph, rank: int, node: Any) -> dict[str, Tensor]:
    """A Gemm's or a MatMul's kernel as (O, I), and its bias."""
    attributes = graph.attributes(node)
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise UserError(f"{graph.where} scales the product of fc layer {rank}", allowed="Gemm with alpha = beta = 1")
    kernel = graph.argument(node, 1)
    if kernel.ndim != 2:
        raise UserError(f"{graph.where} has an fc layer whose kernel has {kernel.ndim} axes", allowed="2")
    if not attributes.get("transB", 0):
        kernel = kernel.T
    bias = graph.argument(node, 2) if len(node.input) > 2 else graph.bias_after(node)
    return {"weight": kernel} if bias is None else {"weight": kernel, "bias": bias}


def _flattens_channels_last(graph: _Graph, last_conv: Any, first_dense: Any) -> bool:
    """Whether the map is turned to H, W, C between the last convolution and the first fc layer."""
    # By identity: nodes are compared with all that they hold.
    begin, end = (next(i for i, node in enumerate(graph.nodes) if node is one) for one in (last_conv, first_dense))
    between = graph.nodes[begin:end]
    turns = [graph.attributes(n).get("perm") for n in between if n.op_type == "Transpose"]
    return bool(turns) and list(turns[-1] or ()) == _CHANNELS_LAST
