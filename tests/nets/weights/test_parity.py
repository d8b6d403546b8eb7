"""One random network in every framework's file gives the activations that the framework computes, layer by layer.

Keras, onnx and torch write and run their own files. Caffe and neon can't be installed: their files are written, and
their values computed, by what they publish (caffe.proto; neon's layer.py and layer_cpu.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.nets.vgg import facts
from pipeline.nets.vgg.network import Network
from pipeline.nets.weights import Weights
from pipeline.nets.weights.preprocessings import CAFFE
from pipeline.nets.weights.sources import open_file
from tests.nets.weights import make_neon, make_onnx
from tests.nets.weights.test_caffe_file import net as caffe_net

# Of the norm of a layer's values: sums in another order differ by a few units of float32's last place (6e-8).
TOLERANCE = 1e-5
STEPS = [op for op in facts.find("tinyvgg").ops if op.kind != "prob"]
# (where to write, tensors, images (N, 3, 64, 64)) -> the file, and the values after each of STEPS as (N, C, H, W)
Framework = Callable[[Path, dict[str, Tensor], Tensor], tuple[Path, list[Tensor]]]


def in_torch(folder: Path, tensors: dict[str, Tensor], images: Tensor) -> tuple[Path, list[Tensor]]:
    """A module as torchvision builds VGG, saved by torch, and run by it."""
    features, values = nn.Sequential(), []
    for op in STEPS:
        if op.kind == "conv":
            inputs = tensors[f"{op.name}.weight"].shape[1]
            features.extend([nn.Conv2d(inputs, op.channels, 3, padding=1), nn.ReLU(inplace=False)])
        elif op.kind == "pool":
            features.append(nn.MaxPool2d(2))
    head = [nn.Linear(64, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 5)]
    module = nn.Module()
    module.features, module.classifier = features, nn.Sequential(*head)
    module.load_state_dict(dict(zip(module.state_dict(), tensors.values(), strict=True)))
    torch.save(module.state_dict(), folder / "w.pth")
    x = images
    for step in features:
        x = step(x)
        values += [] if isinstance(step, nn.Conv2d) else [x]
    x = x.flatten(1)
    for i, step in enumerate(head):
        x = step.eval()(x)
        values += [x[:, :, None, None]] if isinstance(step, nn.ReLU) or i == len(head) - 1 else []
    return folder / "w.pth", values


def in_onnx(folder: Path, tensors: dict[str, Tensor], images: Tensor) -> tuple[Path, list[Tensor]]:
    """onnx's own writer and reference evaluator, every value an output of the graph."""
    model = onnx.load_model_from_string(make_onnx.like_torch("tinyvgg", tensors))
    onnx.save(model, folder / "w.onnx")
    kept = [n.output[0] for n in model.graph.node if n.op_type in ("Relu", "MaxPool")] + [model.graph.output[0].name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in kept)
    found = ReferenceEvaluator(model).run(None, {"image": images.numpy()})
    assert isinstance(found, list)
    return folder / "w.onnx", [torch.from_numpy(np.asarray(v)).reshape(*v.shape, *(1,) * (4 - v.ndim)) for v in found]


def in_keras(folder: Path, tensors: dict[str, Tensor], images: Tensor) -> tuple[Path, list[Tensor]]:
    """Keras on its torch backend. Its maps are (N, H, W, C); its fc6 reads them in that order."""
    keras = pytest.importorskip("keras")
    made, values = keras.Sequential([keras.Input((64, 64, 3))]), []
    for op in STEPS:
        if op.kind == "conv":
            made.add(keras.layers.Conv2D(op.channels, 3, padding="same", activation="relu"))
        elif op.kind == "pool":
            made.add(keras.layers.MaxPooling2D(2))
        else:
            made.add(keras.layers.Flatten()) if op.name == "fc6" else None
            width = 5 if op.name == "fc8" else op.channels
            made.add(keras.layers.Dense(width, activation="relu" if op.relu else None))
    weighted = [layer for layer in made.layers if layer.weights]
    for layer, name in zip(weighted, dict.fromkeys(k.split(".")[0] for k in tensors), strict=True):
        kernel = tensors[f"{name}.weight"].numpy()
        if kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
        elif name == "fc6":
            kernel = kernel.reshape(32, 16, 2, 2).transpose(2, 3, 1, 0).reshape(64, 32)
        else:
            kernel = kernel.T
        layer.set_weights([kernel, tensors[f"{name}.bias"].numpy()])
    made.save_weights(folder / "w.weights.h5")
    x = images.permute(0, 2, 3, 1).contiguous()
    for layer in made.layers:
        x = layer(x)
        if isinstance(layer, keras.layers.Flatten):
            continue
        value = torch.from_numpy(np.array(keras.ops.convert_to_numpy(x)))
        values.append(value.permute(0, 3, 1, 2) if value.ndim == 4 else value[:, :, None, None])
    return folder / "w.weights.h5", values


def in_caffe(folder: Path, tensors: dict[str, Tensor], images: Tensor) -> tuple[Path, list[Tensor]]:
    """caffe.proto: cross-correlation with (O, I, kH, kW), inner product with (O, C*H*W), ReLU in place."""
    (folder / "w.caffemodel").write_bytes(caffe_net(tensors, v1=False))
    x, values = images, []
    for op in STEPS:
        if op.kind == "conv":
            x = functional.conv2d(x, tensors[f"{op.name}.weight"], tensors[f"{op.name}.bias"], padding=1).relu()
        elif op.kind == "pool":
            x = functional.max_pool2d(x, 2, ceil_mode=True)
        else:
            x = x.flatten(1) @ tensors[f"{op.name}.weight"].T + tensors[f"{op.name}.bias"]
            x = (x.relu() if op.relu else x)[:, :, None, None]
        values.append(x)
    return folder / "w.caffemodel", values


def in_neon(folder: Path, tensors: dict[str, Tensor], images: Tensor) -> tuple[Path, list[Tensor]]:
    described = make_neon.model("tinyvgg", tensors)
    (folder / "VGG_D.p").write_bytes(make_neon.python2(described))
    # neon ends in a Softmax; the writer here puts a Rectlin after each layer, so the last value is fc8's positive part.
    return folder / "VGG_D.p", [torch.from_numpy(v.copy()) for v in make_neon.run(described, images.numpy())]


FRAMEWORKS: dict[str, Framework] = {
    "torch": in_torch, "onnx": in_onnx, "keras": in_keras, "caffe": in_caffe, "neon": in_neon
}  # fmt: skip


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_same_activations_layer_by_layer(
    tmp_path: Path, tiny: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        path, expected = FRAMEWORKS[framework](tmp_path, tiny, images)
    read = open_file(path).named("tinyvgg")
    network = Network.of(Weights.make("tinyvgg", read, CAFFE, {}))
    names = [op.name for op in STEPS]
    with torch.inference_mode():
        ours = network(images, names)
    assert len(expected) == len(names)
    for name, theirs in zip(names, expected, strict=True):
        value = ours[name].relu() if framework == "neon" else ours[name]
        assert value.shape == theirs.shape, name
        error = float(torch.linalg.vector_norm(value - theirs) / torch.linalg.vector_norm(theirs))
        assert error < TOLERANCE, f"{name}: {error}"
