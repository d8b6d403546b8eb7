"""From a params section to weights: which reader, which preprocessing, and the stage itself."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.config import WeightsParams
from pipeline.nets.weights import WEIGHT_READERS, Weights, read_canonical, resolve, write_canonical
from pipeline.nets.weights.preprocessings import CAFFE, CAFFE_RGB, TORCHVISION, recognise
from pipeline.nets.weights.sources import from_file
from stages import weights as stage
from tests import yaml_files
from tests.nets.weights import make_neon, make_onnx
from tests.nets.weights.test_caffe_file import net as caffe_net
from tests.nets.weights.test_keras_file import write_keras3
from tests.nets.weights.test_torch_file import in_torchvisions_layout


def params(source: str, arch: str = "tinyvgg") -> WeightsParams:
    return WeightsParams.of(arch, source)


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    """The same weights in the format of the path's suffix."""
    if path.suffix == ".onnx":
        path.write_bytes(make_onnx.like_torch("tinyvgg", tensors))
    elif path.suffix == ".caffemodel":
        path.write_bytes(caffe_net(tensors, v1=True))
    elif path.suffix in (".p", ".prm"):
        path.write_bytes(make_neon.python2(make_neon.model("tinyvgg", tensors)))
    elif path.suffix == ".h5":
        write_keras3(path, tensors)
    elif path.suffix == ".keras":
        write_keras3(path.with_suffix(".h5"), tensors)
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(path.with_suffix(".h5"), "model.weights.h5")
        path.with_suffix(".h5").unlink()
    elif path.suffix == ".safetensors":
        write_canonical(Weights.make("tinyvgg", tensors, TORCHVISION, {"source": "test"}), path)
    else:
        torch.save(in_torchvisions_layout("tinyvgg", tensors), path)
    return path


@pytest.mark.parametrize("suffix", WEIGHT_READERS)
def test_every_format_gives_the_same_weights(tmp_path: Path, tiny: dict[str, Tensor], suffix: str) -> None:
    path = write(tmp_path / f"w{suffix}", tiny)
    sidecar = {"preprocessing": {"channels": "rgb", "scale": 1 / 255, "mean": [0.485, 0.456, 0.406]}}
    sidecar["preprocessing"]["std"] = [0.229, 0.224, 0.225]
    (tmp_path / f"w{suffix}.json").write_text(json.dumps(sidecar))
    expected = Weights.make("tinyvgg", tiny, TORCHVISION, {})
    assert resolve(params(str(path)), tmp_path).sha256 == expected.sha256


@pytest.mark.parametrize("suffix", WEIGHT_READERS)
def test_every_format_refuses_files_cut_short_and_files_of_nothing(
    tmp_path: Path, tiny: dict[str, Tensor], suffix: str
) -> None:
    path = write(tmp_path / f"w{suffix}", tiny)
    data = path.read_bytes()
    for content in (b"", b"\x00" * 64, b"not weights", data[: len(data) // 2], data[:-20]):
        path.write_bytes(content)
        with pytest.raises(UserError):
            from_file(path, "tinyvgg")


@pytest.mark.parametrize("suffix", WEIGHT_READERS)
def test_every_format_refuses_a_missing_file_and_a_folder(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match="no weights file at"):
        from_file(tmp_path / f"none{suffix}", "tinyvgg")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(UserError, match="no weights file at"):
        from_file(tmp_path / f"folder{suffix}", "tinyvgg")


@pytest.mark.parametrize("source", ["dmeo", "weights.txt", "random", "demo:1"])
def test_an_unknown_source_lists_the_known(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"allowed: (demo, torchvision:NAME, random:SEED, or a file ending|random:0)"):
        resolve(params(source), tmp_path)


def test_an_unknown_architecture_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown architecture 'vgg17'"):
        resolve(params("demo", arch="vgg17"), tmp_path)


def test_a_canonical_file_keeps_all_it_says(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    weights = Weights.make("tinyvgg", tiny, CAFFE, {"source": "somewhere"}, tuple("abcde"))
    write_canonical(weights, tmp_path / "w.safetensors")
    read = resolve(params(str(tmp_path / "w.safetensors")), tmp_path)
    assert (read.preprocessing, read.provenance, read.classes) == (CAFFE, {"source": "somewhere"}, tuple("abcde"))
    with pytest.raises(UserError, match=r"holds weights of tinyvgg; allowed: weights\.arch: tinyvgg, not vgg16"):
        resolve(params(str(tmp_path / "w.safetensors"), arch="vgg16"), tmp_path)


def test_onnx_without_a_stated_preprocessing_is_refused(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    path = write(tmp_path / "w.onnx", tiny)
    with pytest.raises(UserError, match=r"doesn't say how its images are to be prepared.*w\.onnx\.json beside it"):
        from_file(path, "tinyvgg")


def test_what_a_file_beside_says_comes_first(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    path = write(tmp_path / "w.pth", tiny)
    assert from_file(path, "tinyvgg").preprocessing == TORCHVISION
    stated = {"channels": "bgr", "scale": 1.0, "mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0]}
    sidecar = tmp_path / "w.pth.json"
    sidecar.write_text(json.dumps({"preprocessing": stated, "classes": list("abcde")}))
    weights = from_file(path, "tinyvgg")
    assert weights.preprocessing.mean == (1.0, 2.0, 3.0) and weights.preprocessing.channels == "bgr"
    assert weights.classes == tuple("abcde")
    for bad, message in (
        ({"mean": [1]}, "has other keys; allowed: preprocessing, classes"),
        ({"preprocessing": stated | {"scale": "big"}}, r"problem.*scale"),
        ({"preprocessing": stated | {"std": [1.0, 0.0, 1.0]}}, r"problem.*std"),
        ({"classes": "abcde"}, "classes is not a list of names"),
        ({"classes": ["a"]}, "name 1 classes, fc8 has 5 rows"),
    ):
        sidecar.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=message):
            from_file(path, "tinyvgg")


def test_oxfords_vgg16_is_recognised_in_either_channel_order() -> None:
    kernel = torch.zeros(64, 3, 3, 3)
    assert recognise("vgg16", {"conv1_1.weight": kernel}) is None
    kernel[0, 0, 0, 0] = 0.42947057
    assert recognise("vgg16", {"conv1_1.weight": kernel}) == CAFFE
    assert recognise("vgg16", {"conv1_1.weight": kernel.flip(1)}) == CAFFE_RGB
    assert recognise("vgg19", {"conv1_1.weight": kernel}) is None


def test_the_stage_writes_the_canonical_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        yaml_files.dump_params({"weights": {"arch": "tinyvgg", "source": "random:3", "file": "-"}})
    )
    stage.main()
    written = Path("out/weights/weights.safetensors")
    assert read_canonical(written).sha256 == resolve(params("random:3"), tmp_path).sha256
    first = written.read_bytes()
    stage.main()
    assert written.read_bytes() == first


def test_a_refused_stage_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"arch": "tinyvgg", "source": "file", "file": "none.pth"}
    Path("params.yaml").write_text(yaml_files.dump_params({"weights": weights}))
    with pytest.raises(UserError, match=r"no weights file at none\.pth"):
        stage.main()
    assert not Path("out").exists()
