"""`export-model` and answers by what it wrote, against the folders; and files made to do harm."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from pipeline import Workspace, compare, extract, transfer
from pipeline.base.errors import UserError
from pipeline.cli.app import app
from pipeline.heads.predict import predict as by_head
from pipeline.portable import read, run, write
from pipeline.portable.about import KEY
from tests.pictures import draw_classes

pytestmark = pytest.mark.slow

FP32: dict[str, Any] = {"precision": "fp32", "device": "cpu", "batch_size": 8}
CODES = FP32 | {"crop": 32, "scales": [36], "flip": True}
HOW: dict[str, Any] = {"arch": "tinyvgg", "weights": "random:0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """codes/ with heads, and tuned/ with two strategies."""
    folder = tmp_path_factory.mktemp("portable")
    photos = draw_classes(folder / "photos", per_class=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(folder / "cache"))
        layers = ["conv5_2-avg", "pool3-spp-l2"]
        space = extract(photos, out=folder / "codes", layers=layers, codes=CODES, **HOW)
        compare(space, heads=["svm", "softmax", "knn"])
        settings = FP32 | {"epochs": 1, "repeats": 1, "size": 32, "scale": 36}
        transfer.finetune(photos, out=folder / "tuned", strategies=["frozen", "cnn"], settings=settings, **HOW)
    return folder


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Answers with the same classes, in order, and scores to 1e-4."""
    assert [a["image"] for a in one] == [a["image"] for a in other]
    for a, b in zip(one, other, strict=True):
        assert a["probabilities"] == b["probabilities"]
        scores = {c["label"]: c["score"] for c in b["classes"]}
        assert {c["label"]: c["score"] for c in a["classes"]} == pytest.approx(scores, abs=1e-4)
        assert a["classes"][0]["score"] == pytest.approx(b["classes"][0]["score"], abs=1e-4)


@pytest.mark.parametrize("head", ["conv5_2-avg-svm", "conv5_2-avg-softmax", "pool3-spp-l2-softmax"])
def test_a_head_answers_as_its_folder(place: Path, tmp_path: Path, head: str) -> None:
    folder, file = place / "codes/heads" / head, tmp_path / "model.onnx"
    about = write.export_model(folder, "onnx", file)
    assert about.classes == ("blue", "green", "red") and (about.size, about.scale) == (32, 36)
    images = [place / "photos/red", place / "photos/blue/1.png"]
    same(read.predict(read.load(file), images), by_head(folder, images))


def test_a_librarys_network_is_exported_too(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(place / "cache"))
    image, one = FP32 | {"crop": 64, "scales": [64]}, "layer2-avg"
    how: dict[str, Any] = {"arch": "torchvision:resnet18", "weights": "random:0", "codes": image}
    compare(extract(place / "photos", out=tmp_path / "codes", layers=[one], **how), heads=["softmax"])
    write.export_model(tmp_path / f"codes/heads/{one}-softmax", "onnx", tmp_path / "model.onnx")
    images = [place / "photos/red"]
    same(
        read.predict(read.load(tmp_path / "model.onnx"), images),
        by_head(tmp_path / f"codes/heads/{one}-softmax", images),
    )


@pytest.mark.parametrize("name", ["frozen", "cnn"])
def test_a_tuned_network_answers_as_its_folder(place: Path, tmp_path: Path, name: str) -> None:
    folder, file = place / "tuned/finetune" / name, tmp_path / "model.onnx"
    write.export_model(folder, "onnx", file)
    same(read.predict(read.load(file), [place / "photos/red"]), transfer.predict(folder, [place / "photos/red"]))


def test_other_programs_need_the_file_alone(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    write.export_model(place / "codes/heads/conv5_2-avg-softmax", "onnx", file)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("image", "tensor(uint8)", [32, 32, 3])]
    for n in (1, 3):
        scores, probabilities = session.run(None, {"image": np.zeros((n, 32, 32, 3), np.uint8)})
        assert scores.shape == probabilities.shape == (n, 3) and scores.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    said = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert said["classes"] == ["blue", "green", "red"] and said["view"] == "crop" and "torch" in said["versions"]


def test_pt2_gives_the_same_and_says_the_same(place: Path, tmp_path: Path) -> None:
    folder = place / "codes/heads/conv5_2-avg-softmax"
    for to in ("onnx", "pt2"):
        write.export_model(folder, to, tmp_path / f"model.{to}")
    extra = {f"{KEY}.json": ""}
    program = torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes()), extra_files=extra)
    model = read.load(tmp_path / "model.onnx")
    assert json.loads(extra[f"{KEY}.json"]) == json.loads(model.about.text())
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    scores = run.run(model.data, pixels, "model")
    np.testing.assert_allclose(program.module()(torch.from_numpy(pixels))[0].detach().numpy(), scores, atol=1e-4)


def test_the_commands(place: Path, tmp_path: Path) -> None:
    runner, file, photo = CliRunner(), str(tmp_path / "model.onnx"), str(place / "photos/red/1.png")
    done = runner.invoke(app, ["export-model", f"{place}/codes/heads/conv5_2-avg-svm", "--to", "onnx", "--out", file])
    assert done.exit_code == 0 and "3 classes" in done.stdout
    done = runner.invoke(app, ["predict", file, photo])
    assert done.exit_code == 0 and "margins" in done.stdout
    done = runner.invoke(app, ["predict", file, photo, "--device", "cpu"])
    assert isinstance(done.exception, UserError) and "--device" in str(done.exception)


def refused(folder: Path, out: Path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        write.export_model(folder, "onnx", out)
    assert not out.exists()


def test_what_cant_be_exported_is_said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, out = place / "codes/heads", tmp_path / "model.onnx"
    refused(heads / "conv5_2-avg-knn", out, "knn head needs all of its training images")
    refused(place / "photos", out, "neither a head nor a tuned network")
    refused(heads / "conv5_2-avg-svm", tmp_path / "model.pt2", "ends in .onnx")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "onnxscript", None)
        refused(heads / "conv5_2-avg-svm", out, r"onnxscript; .*cnn-codes\[onnx\]")
    with monkeypatch.context() as patch:
        patch.setattr(read.Portable, "scores", lambda self, pixels: np.zeros((len(pixels), 3), np.float32))
        refused(heads / "conv5_2-avg-svm", out, "nothing is written")
    out.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        write.export_model(heads / "conv5_2-avg-svm", "onnx", out)


def test_without_the_images_drawn_ones_are_compared(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "codes/heads/conv5_2-avg-svm", tmp_path / "codes/heads/conv5_2-avg-svm")
    shutil.copytree(place / "codes/weights", tmp_path / "codes/weights")
    assert not (tmp_path / "codes/dataset").exists() and Workspace(tmp_path / "codes").weights_file.is_file()
    write.export_model(tmp_path / "codes/heads/conv5_2-avg-svm", "onnx", tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").is_file()


@pytest.fixture(scope="module")
def honest(place: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("honest") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(place / "cache"))
        write.export_model(place / "codes/heads/conv5_2-avg-svm", "onnx", file)
    return file.read_bytes()


def _external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _loop(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", [], [], body=body))


def _foreign(model: Any) -> None:
    model.graph.node[0].domain = "com.microsoft"


def _function(model: Any) -> None:
    model.functions.add(name="f", domain="d")


def _size(model: Any) -> None:
    said = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(said | {"size": 10**9})


def _more(model: Any) -> None:
    said = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(said | {"more": 1})


def _deep(model: Any) -> None:
    model.metadata_props[0].value = "[" * 100_000


def _nothing(model: Any) -> None:
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_external, "other files"),
        (_loop, "graphs within"),
        (_foreign, "not ONNX's own"),
        (_function, "functions"),
        (_size, "size"),
        (_more, "more"),
        (_deep, "deep"),
        (_nothing, "doesn't say what it is"),
    ],
)
def test_a_strangers_model_is_refused(honest: bytes, tmp_path: Path, change: Any, said: str) -> None:
    model = onnx.load_model_from_string(honest)
    change(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=said):
        read.load(tmp_path / "model.onnx")


def test_broken_bytes_are_one_sentence(honest: bytes, place: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for i in range(12):
        data = bytearray(honest)
        data[generator.integers(len(data) // 2 if i % 2 else 400)] ^= 1 << int(generator.integers(8))
        (tmp_path / "model.onnx").write_bytes(data[: len(data) - (i == 0) * 1000])
        try:
            (answer,) = read.predict(read.load(tmp_path / "model.onnx"), [place / "photos/red/1.png"])
        except UserError:
            continue
        assert len(answer["classes"]) == 3


def test_a_model_that_asks_for_all_memory_is_ended(honest: bytes) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1 << 19, 1 << 19])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["scores"], keepdims=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 32, 32, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [scores], [shape]), ir_version=10)
    with pytest.raises(UserError, match=r"can't be run|more memory"):
        run.run(model.SerializeToString(), np.zeros((1, 32, 32, 3), np.uint8), "model.onnx")


def test_pt2_of_strangers_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK")
    with pytest.raises(UserError, match="runs code"):
        read.load(tmp_path / "model.pt2")
