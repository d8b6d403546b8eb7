"""`cnncodes weights`: one network in every format is one network, and what is refused is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from pipeline.base.errors import UserError
from pipeline.cli.app import app
from pipeline.nets.weights import WEIGHT_READERS, Weights, random, read_canonical, write_canonical
from pipeline.nets.weights.preprocessings import CAFFE, TORCHVISION
from tests.nets.weights.test_caffe_file import net as caffe_net
from tests.nets.weights.test_sources import write


def run(*arguments: object, code: int = 0) -> str:
    """What the command prints. A UserError comes through, for `main` to say."""
    torch.set_num_threads(1)
    result = CliRunner().invoke(app, ["weights", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run(*arguments, "--json", code=code))
    return result


@pytest.fixture
def tiny() -> dict[str, Tensor]:
    return random.tensors("tinyvgg", 0, num_classes=5)


@pytest.mark.parametrize("suffix", WEIGHT_READERS)
def test_every_format_converts_to_the_same_network(tmp_path: Path, tiny: dict[str, Tensor], suffix: str) -> None:
    path, out = write(tmp_path / f"w{suffix}", tiny), tmp_path / "out.safetensors"
    done = answer("convert", path, "--out", out, "--preprocessing", "caffe")
    assert (done["arch"], done["deepest"]) == ("tinyvgg", "fc8")
    assert {entry["outcome"] for entry in done["account"]} == {"copied"}
    expected = Weights.make("tinyvgg", tiny, CAFFE, {})
    assert done["sha256"] == expected.sha256 == read_canonical(out).sha256
    described = answer("inspect", path)
    assert described["arch"] == "tinyvgg" and described["deepest"] == "fc8"
    assert described["problems"] == (["nothing says how images are to be prepared"] if suffix == ".onnx" else [])
    assert {t["name"]: tuple(t["shape"]) for t in described["tensors"]} == {k: tuple(t.shape) for k, t in tiny.items()}
    assert answer("diff", path, path)["same"]


def test_layers_that_do_not_fit_are_left_out_or_renewed(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    tiny["fc8_flickr.weight"], tiny["fc8_flickr.bias"] = tiny.pop("fc8.weight"), tiny.pop("fc8.bias")
    path = tmp_path / "w.caffemodel"
    path.write_bytes(caffe_net(tiny, v1=False))
    text = " ".join(run("convert", path).split())
    assert "fc8 left out fc8.weight is missing; fc8.bias is missing" in text
    assert "fc8_flickr.weight unused tinyvgg has no such tensor" in text and "up to fc7" in text
    assert list(read_canonical(tmp_path / "w.safetensors").tensors)[-1] == "fc7.bias"
    renewed = answer("convert", path, "--renew", 3, "--force")
    assert [e["name"] for e in renewed["account"] if e["outcome"] == "renewed"] == ["fc8"]
    whole = read_canonical(tmp_path / "w.safetensors")
    assert torch.equal(whole.tensors["fc8.weight"], random.tensors("tinyvgg", 3)["fc8.weight"])
    assert whole.provenance["renewed"] == ["fc8"]


def test_a_deploy_prototxt_says_which_layer_is_which(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    theirs = {name: f"layer_{i}" for i, name in enumerate(dict.fromkeys(k.split(".")[0] for k in tiny))}
    renamed = {f"{theirs[k.split('.')[0]]}.{k.split('.')[1]}": t for k, t in tiny.items()}
    (tmp_path / "w.caffemodel").write_bytes(caffe_net(renamed, v1=False))
    kinds = {"conv": ("Convolution", "convolution_param"), "fc": ("InnerProduct", "inner_product_param")}
    layers = [
        f'layer {{ name: "{new}" type: "{kinds[old[:-1] if old[:2] == "fc" else "conv"][0]}" '
        f"{kinds[old[:-1] if old[:2] == 'fc' else 'conv'][1]} {{ num_output: {len(tiny[f'{old}.bias'])} }} }}"
        for old, new in theirs.items()
    ]
    deploy = tmp_path / "deploy.prototxt"
    deploy.write_text('name: "net" # a comment\ninput_dim: 1\n' + "\n".join(layers))
    with pytest.raises(UserError, match=r"no layer of .* fits an architecture known here"):
        run("convert", tmp_path / "w.caffemodel")
    done = answer("convert", tmp_path / "w.caffemodel", "--deploy", deploy)
    assert done["sha256"] == Weights.make("tinyvgg", tiny, CAFFE, {}).sha256
    with pytest.raises(UserError, match=r"deploy\.prototxt can't describe"):
        run("convert", write(tmp_path / "v.pth", tiny), "--deploy", deploy)


def test_of_several_sets_of_weights_one_is_chosen(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    halves = {name: tensor / 2 for name, tensor in tiny.items()}
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": tiny, "ema": halves, "optimizer": {"momentum": torch.ones(2)}, "epoch": 3}, path)
    with pytest.raises(UserError, match=r"holds 2 sets of weights of tinyvgg: state_dict, ema; allowed: .*--part"):
        run("convert", path)
    told = answer("inspect", path)
    assert told["part"] == "state_dict" and told["not_used"].keys() == {"ema", "optimizer", "epoch"}
    assert told["problems"] == ["2 sets of weights fit alike: state_dict, ema; `weights convert --part` takes one"]
    assert "not used       epoch: it holds no weights" in run("inspect", path)
    done = answer("convert", path, "--part", "ema")
    assert done["part"] == "ema" and done["sha256"] == Weights.make("tinyvgg", halves, TORCHVISION, {}).sha256
    assert {e["name"] for e in done["account"] if e["outcome"] == "unused"} == {"state_dict", "optimizer", "epoch"}
    assert "taken from     ema" in run("convert", path, "--part", "ema", "--force")
    with pytest.raises(UserError, match=r"has one set of weights, so none to choose"):
        run("convert", write(tmp_path / "w.onnx", tiny), "--part", "ema")


def test_differences_are_measured(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    a = write(tmp_path / "a.pth", tiny)
    changed = dict(tiny) | {"fc7.weight": tiny["fc7.weight"].clone(), "fc8.weight": tiny["fc8.weight"][:3]}
    changed["fc7.weight"][2, 3] += 0.5
    changed["fc8.bias"] = tiny["fc8.bias"][:3]
    b = tmp_path / "b.safetensors"
    write_canonical(Weights.make("tinyvgg", changed, CAFFE, {}), b)
    found = answer("diff", a, b, code=1)
    status = {t["name"]: t["status"] for t in found["tensors"] if t["status"] != "same"}
    assert status == {"fc7.weight": "different", "fc8.weight": "shape", "fc8.bias": "shape"}
    fc7 = next(t for t in found["tensors"] if t["name"] == "fc7.weight")
    assert fc7["max_abs"] == pytest.approx(0.5, rel=1e-5)
    assert fc7["relative"] == pytest.approx(0.5 / float(tiny["fc7.weight"].norm()), rel=1e-4)
    assert list(found["differing"]) == ["preprocessing"] and not found["same"]
    text = run("diff", a, b, code=1)
    assert "29 same, 1 different, 2 shape" in text and "preprocessing: RGB" in text


def test_broken_values_and_a_damaged_file_are_told(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    tiny["conv2_1.bias"] = torch.tensor([1.0, float("nan"), 3.0, float("inf"), 0.0, 0.0])
    told = answer("inspect", write(tmp_path / "w.pth", tiny))
    bias = next(t for t in told["tensors"] if t["name"] == "conv2_1.bias")
    assert (bias["non_finite"], bias["min"], bias["max"]) == (2, 0.0, 3.0)
    assert told["problems"] == ["NaN or infinity in conv2_1.bias"]
    with pytest.raises(UserError, match=r"NaN or infinity: conv2_1\.bias"):
        run("convert", tmp_path / "w.pth")
    tiny["conv2_1.bias"] = torch.zeros(6)
    write_canonical(Weights.make("tinyvgg", tiny, TORCHVISION, {"source": "here"}), tmp_path / "c.safetensors")
    data = bytearray((tmp_path / "c.safetensors").read_bytes())
    data[-2] ^= 1
    (tmp_path / "c.safetensors").write_bytes(data)
    assert "is damaged" in run("inspect", tmp_path / "c.safetensors")


def test_convolutions_that_fit_several_networks_need_a_name(tmp_path: Path) -> None:
    tensors = {k: t for k, t in random.tensors("vgg13", 0, num_classes=2).items() if k.startswith(("conv1", "conv2"))}
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"may be of vgg13, vgg16, vgg19: 4 layers fit each; allowed: --arch"):
        run("convert", tmp_path / "w.pth")
    assert answer("convert", tmp_path / "w.pth", "--arch", "vgg16")["deepest"] == "conv2_2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "none.pth"], "no weights file at none.pth"),
        (["inspect", "w.txt"], r"file ending in \.pth.*\.keras"),
        (["convert", "w.pth", "--out", "w.bin"], r"is not a \.safetensors file"),
        (["convert", "w.pth", "--out", "there.safetensors"], r"there\.safetensors exists; allowed: another --out"),
        (["convert", "w.pth", "--arch", "vgg17"], "unknown architecture 'vgg17'"),
        (["convert", "w.pth", "--arch", "alexnet"], "no weights of w.pth fit alexnet: conv1"),
        (["convert", "w.pth", "--preprocessing", "none"], "unknown preprocessing 'none'; allowed: torchvision, caffe"),
        (["diff", "w.pth", "none.pth"], "no weights file at none.pth"),
    ],
)
def test_mistakes(
    tmp_path: Path, tiny: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("w.pth"), tiny)
    Path("there.safetensors").touch()
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there.safetensors", "w.pth"]
