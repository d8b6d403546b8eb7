"""Writes networks as neon's models, by the schema that neon's source publishes: neon itself can't be installed.

`python2` pickles as Python 2's cPickle does at its highest protocol, which neon asks for: text and bytes are one type.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.nets.vgg import facts


def model(arch: str, tensors: dict[str, Tensor], *, fused: bool = False, norm_eps: float = 1e-3) -> dict[str, Any]:
    """The dict that `Model.serialize` gives. `fused`: Convolution_bias in place of Convolution and Bias."""
    found: list[dict[str, Any]] = []
    for op in facts.find(arch).ops:
        if op.kind == "prob":
            continue
        name, kind = op.name, op.kind
        if kind == "pool":
            found.append(layer("Pooling", {"fshape": 2, "strides": 2, "name": name}))
            continue
        if f"{name}.weight" not in tensors:
            break
        weight, bias = tensors[f"{name}.weight"].numpy(), tensors[f"{name}.bias"].numpy()[:, None]
        if kind == "fc":
            found += [layer("Linear", {"nout": len(weight)}, W=weight), layer("Bias", {}, W=bias)]
        else:
            found += convolution(weight, bias, fused=fused)
        if f"{op.norm_name}.running_var" in tensors and kind == "conv":
            theirs = {"weight": "gamma", "bias": "beta", "running_mean": "gmean", "running_var": "gvar"}
            parts = {new: tensors[f"{op.norm_name}.{old}"].numpy()[:, None] for old, new in theirs.items()}
            found.append(layer("BatchNorm", {} if norm_eps == 1e-3 else {"eps": norm_eps}, **parts))
        found.append(layer("Activation", {"transform": {"type": "neon.transforms.activation.Rectlin", "config": {}}}))
        if kind == "fc":
            found.append(layer("Dropout", {"keep": 0.5}))
    return {
        "neon_version": "1.5.4+7a2b3c4",
        "backend": {
            "type": "NervanaGPU",
            "compat_mode": "caffe",
            "rng_seed": None,
            "rng_state": np.arange(6, dtype="u4"),
        },
        "model": {
            "type": "neon.layers.container.Sequential",
            "container": True,
            "config": {"name": "network", "layers": found},
        },
        "epoch_index": 1,
        "train_input_shape": (3, 64, 64),
    }


def layer(kind: str, config: dict[str, Any], **params: np.ndarray) -> dict[str, Any]:
    described: dict[str, Any] = {"type": f"neon.layers.layer.{kind}", "config": config}
    return described | ({"params": params, "states": []} if params else {})


def convolution(weight: np.ndarray, bias: np.ndarray, *, fused: bool) -> list[dict[str, Any]]:
    """A filter (K, C, R, S) as W (C*R*S, K); fshape is a dict in the older files, a tuple in the newer."""
    filters, _, height, width = weight.shape
    matrix = np.ascontiguousarray(weight.transpose(1, 2, 3, 0).reshape(-1, filters))
    if fused:
        config = {"fshape": (height, width, filters), "padding": 1, "strides": 1}
        return [layer("Convolution_bias", config, W=matrix, weight_bias=bias)]
    config = {"fshape": {"R": height, "S": width, "K": filters}, "padding": 1, "strides": 1}
    return [layer("Convolution", config, W=matrix), layer("Bias", {}, W=bias)]


def run(described: dict[str, Any], images: np.ndarray) -> list[np.ndarray]:
    """The value after every Activation and Pooling, as neon/backends/layer_cpu.py computes it: activations are
    (C, H, W, N), and each output pixel is the product of the filters' rows with the patch below them.
    """
    x, values = images.transpose(1, 2, 3, 0), []
    for described_layer in described["model"]["config"]["layers"]:
        kind, params = described_layer["type"].rpartition(".")[2], described_layer.get("params", {})
        if kind in ("Convolution", "Convolution_bias"):
            x = _slide(x, params["W"]) + (params["weight_bias"][:, :, None, None] if "weight_bias" in params else 0)
        elif kind == "Linear":
            x = (params["W"] @ x.reshape(-1, x.shape[-1]))[:, None, None, :]
        elif kind == "Bias":
            x = x + params["W"][:, :, None, None]
        elif kind == "Activation":
            x = np.maximum(x, 0)
        elif kind == "Pooling":
            c, h, w, n = x.shape
            x = x.reshape(c, h // 2, 2, w // 2, 2, n).max(axis=(2, 4))
        if kind in ("Activation", "Pooling"):
            values.append(x.transpose(3, 0, 1, 2))
    return values


def _slide(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(C, H, W, N) and (C*3*3, K) -> (K, H, W, N), padded by 1."""
    channels, height, width, n = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.empty((matrix.shape[1], height, width, n), x.dtype)
    for p in range(height):
        for q in range(width):
            out[:, p, q] = matrix.T @ padded[:, p : p + 3, q : q + 3].reshape(channels * 9, n)
    return out


def python2(value: Any) -> bytes:
    """A pickle as Python 2 wrote it: protocol 2, every string of bytes."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(k) + _opcodes(v) for k, v in value.items()) + b"u"
    return _array(value) if isinstance(value, np.ndarray) else _scalar(value)


def _scalar(value: Any) -> bytes:
    if isinstance(value, str | bytes):
        raw = value.encode("latin-1") if isinstance(value, str) else value
        return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if type(value) is int:
        return b"J" + struct.pack("<i", value)
    return {None: b"N", True: b"\x88", False: b"\x89"}[value]


def _array(value: np.ndarray) -> bytes:
    name = value.dtype.str[1:]  # <f4 -> f4
    dtype = b"cnumpy\ndtype\n" + _scalar(name) + b"K\0K\1\x87R" + _opcodes((3, "<", None, None, None, -1, -1, 0)) + b"b"
    begun = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    state = b"(K\1" + _opcodes(value.shape) + dtype + b"\x89" + _scalar(np.ascontiguousarray(value).tobytes()) + b"t"
    return begun + state + b"b"
