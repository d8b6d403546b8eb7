"""ONNX in the ways exporters write it: the same activations as ONNX's own reference evaluator."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.config import WeightsParams
from pipeline.nets import external_data
from pipeline.nets.vgg import facts
from pipeline.nets.vgg.network import Network
from pipeline.nets.weights import Preprocessing, Weights, read_canonical
from pipeline.nets.weights.check import check
from pipeline.nets.weights.legacy import onnx_file
from pipeline.workspace import canonical_weights
from tests.nets.weights import make_onnx

PREPROCESSING = Preprocessing("rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def logits(arch: str, tensors: dict[str, Tensor], x: np.ndarray) -> np.ndarray:
    network = Network.of(Weights.make(arch, tensors, PREPROCESSING, {}))
    with torch.inference_mode():
        return network(torch.from_numpy(x), ["fc8"])["fc8"].flatten(1).numpy()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)


def test_torchs_way(tmp_path: Path, tiny: dict[str, Tensor], image: np.ndarray) -> None:
    model = make_onnx.like_torch("tinyvgg", tiny)
    (tmp_path / "w.onnx").write_bytes(model)
    read = onnx_file.read(tmp_path / "w.onnx")
    assert read.preprocessing is None
    assert all(torch.equal(read.named("tinyvgg")[k], tiny[k]) for k in tiny)
    np.testing.assert_allclose(
        logits("tinyvgg", read.named("tinyvgg"), image), make_onnx.run(model, image), rtol=1e-4, atol=1e-5
    )


def test_keras_way_flattens_channels_last(tmp_path: Path, tiny: dict[str, Tensor], image: np.ndarray) -> None:
    # Keras' fc6 kernel is (H*W*C, out); ours is (out, C*H*W).
    kernel = tiny["fc6.weight"].numpy().reshape(32, 16, 2, 2).transpose(2, 3, 1, 0).reshape(-1, 32)
    model = make_onnx.like_keras("tinyvgg", tiny, kernel)
    (tmp_path / "w.onnx").write_bytes(model)
    read = check("tinyvgg", onnx_file.read(tmp_path / "w.onnx").named("tinyvgg"))
    assert all(torch.equal(read[k], tiny[k]) for k in tiny)
    np.testing.assert_allclose(logits("tinyvgg", read, image), make_onnx.run(model, image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_norms_with_another_eps_norm_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: np.ndarray, eps: float
) -> None:
    monkeypatch.setitem(facts.ARCHS, "small_bn", facts.Arch("small_bn", 64, True, facts.find("tinyvgg").ops))
    g = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in facts.tensor_shapes("small_bn", num_classes=5).items():
        # Variances near eps: there the difference shows.
        tensors[name] = torch.rand(shape, generator=g) * (1e-3 if name.endswith("running_var") else 0.1)
    model = make_onnx.like_torch("small_bn", tensors, norm_eps=eps)
    (tmp_path / "w.onnx").write_bytes(model)
    read = onnx_file.read(tmp_path / "w.onnx").named("small_bn")
    expected = make_onnx.run(model, image)
    found = logits("small_bn", read, image)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-4


def test_constants_may_be_renamed_and_transposed(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    hwio = tiny["conv1_1.weight"].numpy().transpose(2, 3, 1, 0)
    bias = helper.make_tensor("b", onnx.TensorProto.FLOAT, [4], tiny["conv1_1.bias"].numpy())
    nodes = [
        helper.make_node("Identity", ["k"], ["k2"]),
        helper.make_node("Transpose", ["k2"], ["k3"], perm=[3, 2, 0, 1]),
        helper.make_node("Constant", [], ["b2"], value=bias),
        helper.make_node("Conv", ["image", "k3"], ["y"], pads=[1] * 4),
        helper.make_node("Add", ["y", "b2"], ["z"]),
    ]
    kernel = numpy_helper.from_array(np.ascontiguousarray(hwio), "k")
    graph = helper.make_graph(nodes, "n", [make_onnx.IMAGE], [], [kernel])
    (tmp_path / "w.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    read = onnx_file.read(tmp_path / "w.onnx").named("tinyvgg")
    assert torch.equal(read["conv1_1.weight"], tiny["conv1_1.weight"])
    assert torch.equal(read["conv1_1.bias"], tiny["conv1_1.bias"])


def test_a_network_of_another_shape_is_reported(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    (tmp_path / "w.onnx").write_bytes(make_onnx.like_torch("tinyvgg", tiny))
    with pytest.raises(
        UserError, match=r"wrong shape: conv1_1\.weight .*unexpected: conv number 10\.bias, conv number 10"
    ):
        check("vgg11", onnx_file.read(tmp_path / "w.onnx").named("vgg11"))


@pytest.mark.parametrize("keep", [1, 50, 1000, -1000, -1])
def test_files_cut_short_are_refused(tmp_path: Path, tiny: dict[str, Tensor], keep: int) -> None:
    path = tmp_path / "w.onnx"
    path.write_bytes(make_onnx.like_torch("tinyvgg", tiny)[:keep])
    with pytest.raises(UserError, match=r"w\.onnx"):
        check("tinyvgg", onnx_file.read(path).named("tinyvgg"))


def external(path: Path, tensors: dict[str, Tensor], **how: Any) -> onnx.ModelProto:
    """The model at `path` with its tensors in files beside it, as onnx and torch's exporter write it."""
    model = onnx.load_model_from_string(make_onnx.like_torch("tinyvgg", tensors))
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, **how)
    return onnx.load(path, load_external_data=False)


def set_entry(path: Path, model: onnx.ModelProto, key: str, value: str) -> None:
    tensor = model.graph.initializer[0]
    entries = {entry.key: entry.value for entry in tensor.external_data} | {key: value}
    del tensor.external_data[:]
    for k, v in entries.items():
        tensor.external_data.add(key=k, value=v)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("how", [{"location": "w.onnx.data"}, {"all_tensors_to_one_file": False}])
def test_tensors_in_files_beside_the_model(tmp_path: Path, tiny: dict[str, Tensor], how: dict[str, Any]) -> None:
    external(tmp_path / "w.onnx", tiny, **how)
    read = onnx_file.read(tmp_path / "w.onnx").named("tinyvgg")
    assert all(torch.equal(read[k], tiny[k]) for k in tiny)
    assert len(external_data.files(tmp_path / "w.onnx")) == (1 if "location" in how else len(tiny))


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret.data", "a/../../secret.data", "link.data", "..", ".", ""]
)
def test_no_tensor_leads_out_of_the_models_folder(tmp_path: Path, tiny: dict[str, Tensor], location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    model = external(folder / "w.onnx", tiny, location="w.onnx.data")
    shutil.copy(folder / "w.onnx.data", tmp_path / "secret.data")
    (folder / "link.data").symlink_to(tmp_path / "secret.data")
    (folder / "a").mkdir()
    set_entry(folder / "w.onnx", model, "location", location)
    with pytest.raises(UserError, match=r"keeps its tensors at .*; allowed: a file in its folder"):
        onnx_file.read(folder / "w.onnx")
    with pytest.raises(UserError, match="keeps its tensors at"):
        external_data.files(folder / "w.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "-4"), ("offset", "99999999"), ("offset", "x"), ("length", "431"), ("length", "1" + "0" * 15)],
)
def test_places_in_the_other_file_that_lie_are_refused(
    tmp_path: Path, tiny: dict[str, Tensor], key: str, value: str
) -> None:
    model = external(tmp_path / "w.onnx", tiny, location="w.onnx.data")
    set_entry(tmp_path / "w.onnx", model, key, value)
    with pytest.raises(UserError, match=r"has a broken tensor c0: its 432 bytes are not in w\.onnx\.data"):
        onnx_file.read(tmp_path / "w.onnx")


def test_a_shape_beyond_the_other_file_claims_no_memory(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    model = external(tmp_path / "w.onnx", tiny, location="w.onnx.data")
    for dims, message in (([1 << 40, 1, 3, 3], "has more than"), ([1 << 20, 3, 3, 3], "has a broken tensor c0")):
        model.graph.initializer[0].dims[:] = dims
        set_entry(tmp_path / "w.onnx", model, "location", "w.onnx.data")
        with pytest.raises(UserError, match=message):
            onnx_file.read(tmp_path / "w.onnx")


def test_a_missing_or_unfetched_file_beside_is_named(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    external(tmp_path / "w.onnx", tiny, location="w.onnx.data")
    (tmp_path / "w.onnx.data").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 7\n")
    with pytest.raises(UserError, match=r"w\.onnx\.data is a Git LFS pointer"):
        onnx_file.read(tmp_path / "w.onnx")
    (tmp_path / "w.onnx.data").unlink()
    with pytest.raises(UserError, match=r"w\.onnx keeps its tensors in w\.onnx\.data, which is not beside it"):
        onnx_file.read(tmp_path / "w.onnx")


def test_other_tensors_in_the_file_beside_make_other_weights(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    """The model itself stays the same, byte by byte, when a network is trained on and exported again."""
    (tmp_path / "w.onnx.json").write_text(json.dumps({"preprocessing": dataclasses.asdict(PREPROCESSING)}))
    params = WeightsParams.of("tinyvgg", str(tmp_path / "w.onnx"))
    seen = []
    for scale in (1, 2):
        external(tmp_path / "w.onnx", {k: t * scale for k, t in tiny.items()}, location="w.onnx.data")
        seen.append(read_canonical(canonical_weights(params, tmp_path / "cache")).tensors["fc8.bias"])
    assert torch.equal(seen[0] * 2, seen[1])


def test_constants_that_no_layer_reads_are_reported(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    """As a mean that the graph itself takes away from images."""
    model = onnx.load_model_from_string(make_onnx.like_torch("tinyvgg", tiny))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 1, 1), np.float32), "mean"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "scale"))
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"unexpected: mean(;|$)"):
        check("tinyvgg", onnx_file.read(tmp_path / "w.onnx").named("tinyvgg"))


def test_a_bias_of_zeros_may_be_left_out(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    """As torch's exporter does."""
    model = onnx.load_model_from_string(make_onnx.like_torch("tinyvgg", tiny))
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            del node.input[2]
    del model.graph.initializer[1::2]
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    whole = check("tinyvgg", onnx_file.read(tmp_path / "w.onnx").named("tinyvgg"))
    assert all(torch.equal(whole[k], t if k.endswith("weight") else torch.zeros_like(t)) for k, t in tiny.items())


def test_a_tensor_that_lies_about_its_size_is_refused(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    model = onnx.load_model_from_string(make_onnx.like_torch("tinyvgg", tiny))
    model.graph.initializer[0].dims[0] = 9
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"w\.onnx has a broken tensor c0"):
        onnx_file.read(tmp_path / "w.onnx")


def test_computed_weights_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["k"]), helper.make_node("Conv", ["image", "k"], ["y"])]
    (tmp_path / "w.onnx").write_bytes(
        helper.make_model(helper.make_graph(nodes, "n", [make_onnx.IMAGE], [])).SerializeToString()
    )
    with pytest.raises(UserError, match="computes k, where weights must be constants"):
        onnx_file.read(tmp_path / "w.onnx")


@pytest.mark.parametrize(
    "nodes",
    [
        [("Identity", ["b"], ["a"]), ("Identity", ["a"], ["b"]), ("Conv", ["image", "a"], ["y"])],
        [("Conv", ["image"], ["y"])],
        [("BatchNormalization", ["image"], ["y"]), ("Conv", ["y", "nowhere"], ["z"])],
    ],
)
def test_graphs_that_are_not_valid_are_refused(tmp_path: Path, nodes: list[tuple[str, list[str], list[str]]]) -> None:
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "n", [make_onnx.IMAGE], [])
    (tmp_path / "w.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UserError, match="is not a valid ONNX model"):
        onnx_file.read(tmp_path / "w.onnx")
