"""Writes networks as ONNX graphs in the ways exporters do, and runs them by ONNX's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from pipeline.nets.vgg import facts

IMAGE = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["b", 3, "h", "w"])
BN_EPS = 1e-3  # Keras' own; torch's is 1e-5


class Graph:
    """Nodes in order, each reading the last one's output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = "image"

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"  # says nothing: readers must go by order
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> None:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *inputs], [output], **attributes))
        self.last = output

    def model(self) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [IMAGE],
            [helper.make_tensor_value_info(self.last, onnx.TensorProto.FLOAT, ["b", "k"])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def like_torch(arch: str, tensors: dict[str, Tensor], *, norm_eps: float = BN_EPS) -> bytes:
    """Conv with its bias, Flatten of C, H, W, Gemm with transB."""
    g = _convolutions(arch, tensors, norm_eps)
    g.node("Flatten", axis=1)
    for fc in ("fc6", "fc7", "fc8"):
        weight, bias = g.constant(tensors[f"{fc}.weight"].numpy()), g.constant(tensors[f"{fc}.bias"].numpy())
        g.node("Gemm", weight, bias, transB=1)
        if fc != "fc8":
            g.node("Relu")
    return g.model()


def like_keras(arch: str, tensors: dict[str, Tensor], fc6_hwc_by_out: np.ndarray) -> bytes:
    """The map turned to H, W, C, then MatMul with (in, out) kernels and an Add each."""
    g = _convolutions(arch, tensors, BN_EPS)
    g.node("Transpose", perm=[0, 2, 3, 1])
    g.node("Reshape", g.constant(np.array([-1, fc6_hwc_by_out.shape[0]], np.int64)))
    for fc in ("fc6", "fc7", "fc8"):
        g.node("MatMul", g.constant(fc6_hwc_by_out if fc == "fc6" else tensors[f"{fc}.weight"].numpy().T))
        g.node("Add", g.constant(tensors[f"{fc}.bias"].numpy()))
        if fc != "fc8":
            g.node("Relu")
    return g.model()


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    """The graph's output for (B, 3, H, W) images."""
    return np.asarray(ReferenceEvaluator(onnx.load_model_from_string(model)).run(None, {"image": x})[0])


def _convolutions(arch: str, tensors: dict[str, Tensor], norm_eps: float) -> Graph:
    g = Graph()
    for op in facts.ops_until(arch, "pool5"):
        if op.kind == "conv":
            pads, strides = [op.padding] * 4, [op.stride] * 2
            weight = g.constant(tensors[f"{op.name}.weight"].numpy())
            g.node("Conv", weight, g.constant(tensors[f"{op.name}.bias"].numpy()), pads=pads, strides=strides)
            if f"{op.norm_name}.weight" in tensors:
                parts = ("weight", "bias", "running_mean", "running_var")
                inputs = [g.constant(tensors[f"{op.norm_name}.{part}"].numpy()) for part in parts]
                g.node("BatchNormalization", *inputs, epsilon=norm_eps)
            g.node("Relu")
        else:
            g.node("MaxPool", kernel_shape=[op.kernel] * 2, strides=[op.stride] * 2)
    return g
