"""Keras' files: their layouts as published, written here by h5py, and by Keras itself where it is installed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.vgg.network import Network
from pipeline.nets.weights import Weights
from pipeline.nets.weights.check import check
from pipeline.nets.weights.convert import convert
from pipeline.nets.weights.foreign import columns_hwc_to_chw
from pipeline.nets.weights.legacy import keras_file
from pipeline.nets.weights.preprocessings import CAFFE
from pipeline.nets.weights.sources import from_file


def keras_layers(tensors: dict[str, Tensor]) -> list[tuple[str, list[np.ndarray]]]:
    """(our name, [kernel, bias]) of each layer as Keras holds it."""
    found = []
    for name in dict.fromkeys(key.split(".")[0] for key in tensors):
        weight, bias = tensors[f"{name}.weight"].numpy(), tensors[f"{name}.bias"].numpy()
        if weight.ndim == 4:
            kernel = weight.transpose(2, 3, 1, 0)
        elif name == "fc6":
            kernel = weight.reshape(32, 16, 2, 2).transpose(2, 3, 1, 0).reshape(-1, 32)
        else:
            kernel = weight.T
        found.append((name, [kernel, bias]))
    return found


def write_applications(path: Path, tensors: dict[str, Tensor], *, nested: bool) -> None:
    """Like keras.applications' files: layer_names and weight_names; `nested` like whole models saved as .h5."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        names = ["input_1"]
        root.create_group("input_1").attrs["weight_names"] = np.array([], dtype="S1")
        for name, arrays in keras_layers(tensors):
            theirs = f"block{name[4]}_conv{name[6]}" if name.startswith("conv") else name
            group = root.create_group(theirs)
            paths = [f"{theirs}/{part}:0" if nested else f"{theirs}_{part}_1:0" for part in ("kernel", "bias")]
            for weight, array in zip(paths, arrays, strict=True):
                group[weight] = array
            group.attrs["weight_names"] = np.array([p.encode() for p in paths])
            names.append(theirs)
        root.attrs["layer_names"] = np.array([n.encode() for n in names])


def write_keras3(path: Path, tensors: dict[str, Tensor]) -> None:
    """Like model.save_weights("x.weights.h5"): layers by class and number, of which 10 comes after 9."""
    counts: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for name, arrays in keras_layers(tensors):
            kind = "conv2d" if name.startswith("conv") else "dense"
            i = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{i}/vars" if i else f"layers/{kind}/vars")
            for j, array in enumerate(arrays):
                group[str(j)] = array
        file.create_group("layers/max_pooling2d/vars")


def write(path: Path, tensors: dict[str, Tensor], way: str) -> None:
    if way == "keras3":
        write_keras3(path, tensors)
    else:
        write_applications(path, tensors, nested=way == "model")


WAYS = ["applications", "model", "keras3"]


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_layouts(tmp_path: Path, tiny: dict[str, Tensor], way: str, top: bool) -> None:
    held = {k: t for k, t in tiny.items() if top or not k.startswith("fc")}
    write(tmp_path / "w.h5", held, way)
    weights = from_file(tmp_path / "w.h5", "tinyvgg")
    assert list(weights.tensors) == list(held) and all(torch.equal(weights.tensors[k], t) for k, t in held.items())
    assert weights.preprocessing == CAFFE


def test_layout_equations() -> None:
    g = np.random.default_rng(0)
    conv, dense = g.random((3, 2, 5, 7)), g.random((6, 4))
    ours = keras_file.conv_kernel(torch.from_numpy(conv))
    assert all(
        ours[o, i, y, x] == conv[y, x, i, o] for o in range(7) for i in range(5) for y in range(3) for x in (0, 1)
    )
    assert torch.equal(keras_file.dense_kernel(torch.from_numpy(dense)), torch.from_numpy(dense.T.copy()))
    # Keras' fc6 kernel is (H*W*C, out); ours is (out, C*H*W).
    kernel = g.random((7 * 7 * 6, 4))
    expected = kernel.reshape(7, 7, 6, 4).transpose(3, 2, 0, 1).reshape(4, -1)
    assert np.array_equal(columns_hwc_to_chw(torch.from_numpy(kernel.T), 6).numpy(), expected)


@pytest.mark.parametrize("keep", [0, 100, 5000, -2000])
@pytest.mark.parametrize("way", WAYS)
def test_files_cut_short_are_refused(tmp_path: Path, tiny: dict[str, Tensor], way: str, keep: int) -> None:
    path = tmp_path / "w.h5"
    write(path, tiny, way)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"w\.h5 is not a whole HDF5 file"):
        keras_file.read(path)


def test_values_kept_in_other_files_are_refused(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000))
    write_keras3(tmp_path / "w.h5", tiny)
    write_keras3(tmp_path / "other.h5", tiny)
    with h5py.File(tmp_path / "w.h5", "a") as file:
        del file["layers/dense_1/vars/1"]
        file.create_dataset("layers/dense_1/vars/1", (32,), "f4", external=[(str(secret), 0, 128)])
    with pytest.raises(UserError, match="keeps /layers/dense_1/vars/1 in another file"):
        keras_file.read(tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5", "a") as file:
        del file["layers/dense_1/vars/1"]
        file["layers/dense_1/vars/1"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "layers/dense_1/vars/1")
    with pytest.raises(UserError, match=r"keeps .* in another file"):
        keras_file.read(tmp_path / "w.h5")


def test_a_size_beyond_the_architecture_is_refused_unread(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    write_keras3(tmp_path / "w.h5", tiny)
    with h5py.File(tmp_path / "w.h5", "a") as file:
        del file["layers/dense_1/vars/0"]
        file.create_dataset("layers/dense_1/vars/0", (1 << 20, 1 << 20), "f4", chunks=(16, 16))  # 4 TB, unwritten
    with pytest.raises(UserError, match="states 4,398,046,511,104 bytes for /layers/dense_1/vars/0"):
        keras_file.read(tmp_path / "w.h5")


@pytest.mark.parametrize("content", ["nothing", "text", "odd"])
def test_other_hdf5_files_are_refused(tmp_path: Path, content: str) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        if content == "text":
            file["layers/conv2d/vars/0"] = "text"
        elif content == "odd":
            file["layers/conv3d/vars/0"] = np.zeros((1, 1, 1, 1, 1), np.float32)
    with pytest.raises(UserError, match=r"w\.h5"):
        keras_file.read(tmp_path / "w.h5")


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_keras_own_writer_and_its_own_activations(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((64, 64, 3))])
    for op in facts.find("tinyvgg").ops[:-1]:
        if op.kind == "conv":
            model.add(keras.layers.Conv2D(op.channels, 3, padding="same", activation="relu"))
        elif op.kind == "pool":
            model.add(keras.layers.MaxPooling2D(2))
        else:
            if op.name == "fc6":
                model.add(keras.layers.Flatten())
            width = 5 if op.name == "fc8" else op.channels
            model.add(keras.layers.Dense(width, activation="relu" if op.relu else None))
    path = tmp_path / f"w{suffix}"
    if suffix == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    tensors = check("tinyvgg", keras_file.read(path).named("tinyvgg"))
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), dtype=np.float32)
    expected = keras.ops.convert_to_numpy(model(images))
    network = Network.of(Weights.make("tinyvgg", tensors, CAFFE, {}))
    with torch.inference_mode():
        found = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), ["fc8"])["fc8"].flatten(1).numpy()
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5


def vgg_in_a_sequential(keras: Any, *, names: str = "block{}_conv{}") -> Any:
    """As people transfer: the convolutions as one layer, some of them frozen, with layers of their own around."""
    x = entry = keras.Input((64, 64, 3))
    for op in facts.ops_until("tinyvgg", "pool5"):
        if op.kind == "conv":
            name = names.format(*op.name.removeprefix("conv").split("_"))
            x = keras.layers.Conv2D(op.channels, 3, padding="same", activation="relu", name=name)(x)
        else:
            x = keras.layers.MaxPooling2D(2)(x)
    base = keras.Model(entry, x, name="vgg16")
    for layer in base.layers[::2]:
        layer.trainable = False
    made = [keras.Input((64, 64, 3)), base, keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(7)]
    return base, keras.Sequential(made)


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    return pytest.importorskip("keras")


@pytest.mark.parametrize("names", ["block{}_conv{}", "{}{} by another name"])
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5"])
def test_a_model_inside_a_model_keeps_all_its_layers(tmp_path: Path, keras: Any, suffix: str, names: str) -> None:
    base, model = vgg_in_a_sequential(keras, names=names.replace("{}{} by", "layer{}x{} by"))
    model.compile("adam", "mse")
    model.fit(np.zeros((1, 64, 64, 3)), np.zeros((1, 7)), verbose=0)
    path = tmp_path / f"w{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    done = convert(path, arch="tinyvgg")
    kernels = [layer.get_weights()[0].transpose(3, 2, 0, 1) for layer in base.layers if layer.weights]
    held = [t.numpy() for name, t in done.weights.tensors.items() if name.endswith("weight")]
    assert len(held) == len(kernels) == 13 and all(map(np.array_equal, held, kernels))
    told = {entry.name: entry.outcome for entry in done.account if entry.outcome != "copied"}
    assert told["fc6"] == "left out" and {"optimizer", "optimizer_weights"} & told.keys()
    with pytest.raises(UserError, match=r"wrong shape: fc6\.weight"):
        from_file(path, "tinyvgg")


def test_frozen_layers_in_a_weights_file_of_a_model_inside_a_model(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    """Keras lists those that were trained before those that were frozen; block1_conv1 and so on say the order."""
    held = keras_layers({k: t for k, t in tiny.items() if k.startswith("conv")})
    with h5py.File(tmp_path / "w.h5", "w") as file:
        group = file.create_group("vgg16")
        paths = []
        for name, arrays in held[9:] + held[:9]:
            for part, array in zip(("kernel:0", "bias:0"), arrays, strict=True):
                paths.append(f"block{name[4]}_conv{name[6]}/{part}")
                group[paths[-1]] = array
        group.attrs["weight_names"] = np.array([p.encode() for p in paths])
        file.attrs["layer_names"] = np.array([b"vgg16"])
    weights = from_file(tmp_path / "w.h5", "tinyvgg")
    assert list(weights.tensors) == [k for k in tiny if k.startswith("conv")]
    assert all(torch.equal(t, tiny[k]) for k, t in weights.tensors.items())


def test_layers_of_other_kinds_are_never_dropped_in_silence(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    write_keras3(tmp_path / "w.weights.h5", tiny)
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        file["layers/separable_conv2d/vars/0"] = np.ones((3, 3, 4, 1), np.float32)
        file["layers/separable_conv2d/vars/1"] = np.ones((1, 1, 4, 4), np.float32)
        file["layers/dropout/seed_generator/vars/0"] = np.array([1, 2], np.uint32)
        file["layers/normalization/vars/2"] = np.float32(7)
        file["layers/normalization/vars/0"] = np.ones(3, np.float32)
    with pytest.raises(UserError, match=r"unexpected: /layers/normalization/0, /layers/separable_conv2d/0, .*conv2d/1"):
        from_file(tmp_path / "w.weights.h5", "tinyvgg")
    told = {entry.name for entry in convert(tmp_path / "w.weights.h5").account if entry.outcome != "copied"}
    assert told == {
        "/layers/separable_conv2d/0", "/layers/separable_conv2d/1", "/layers/normalization/0",
        "/layers/normalization/vars/2", "/layers/dropout/seed_generator/vars/0",
    }  # fmt: skip


@pytest.mark.parametrize("inside", ["", "nothing.h5"])
def test_a_zip_of_something_else_is_refused(tmp_path: Path, inside: str) -> None:
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
        archive.writestr(inside or "config.json", b"{}")
    with pytest.raises(UserError, match=r"is a zip without model\.weights\.h5"):
        keras_file.read(tmp_path / "w.keras")
