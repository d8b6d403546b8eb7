"""neon's models: their layout as an equation, both ways of writing a bias, both Pythons, and files that lie."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.weights.check import check
from pipeline.nets.weights.legacy import neon_file
from pipeline.nets.weights.preprocessings import CAFFE
from pipeline.nets.weights.sources import from_file
from tests.nets.weights import make_neon

PICKLES: dict[str, Callable[[Any], bytes]] = {
    "python 2": make_neon.python2,
    "python 3, protocol 2": lambda value: pickle.dumps(value, protocol=2),
    "python 3, newest": lambda value: pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL),
}


def test_layout_equation() -> None:
    g = np.random.default_rng(0)
    matrix = g.random((5 * 3 * 2, 7))  # (C*R*S, K): C = 5, R = 3, S = 2, K = 7
    ours = neon_file.conv_kernel(matrix, 3, 2)
    assert ours.shape == (7, 5, 3, 2)
    for k, c, r, s in np.ndindex(ours.shape):
        assert ours[k, c, r, s] == matrix[(c * 3 + r) * 2 + s, k]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("way", PICKLES)
def test_both_kinds_of_bias_and_all_pickles(tmp_path: Path, tiny: dict[str, Tensor], way: str, fused: bool) -> None:
    (tmp_path / "VGG_D.p").write_bytes(PICKLES[way](make_neon.model("tinyvgg", tiny, fused=fused)))
    weights = from_file(tmp_path / "VGG_D.p", "tinyvgg")
    assert all(torch.equal(weights.tensors[k], tiny[k]) for k in tiny)
    assert weights.preprocessing == CAFFE


def test_a_model_without_top_and_one_in_nested_chains(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    bare = {k: t for k, t in tiny.items() if not k.startswith("fc")}
    described = make_neon.model("tinyvgg", bare)
    found = described["model"]["config"]["layers"]
    inner = {"type": "neon.layers.container.Sequential", "config": {"layers": found[:9]}, "container": True}
    described["model"]["config"]["layers"] = [inner, *found[9:]]
    (tmp_path / "w.prm").write_bytes(pickle.dumps(described, protocol=2))
    assert list(from_file(tmp_path / "w.prm", "tinyvgg").tensors) == list(bare)


@pytest.mark.parametrize("eps", [1e-3, 1e-2])
def test_norms_add_their_own_eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eps: float) -> None:
    monkeypatch.setitem(facts.ARCHS, "small_bn", facts.Arch("small_bn", 64, True, facts.find("tinyvgg").ops))
    g = torch.Generator().manual_seed(0)
    shapes = facts.tensor_shapes("small_bn", num_classes=5)
    tensors = {name: torch.rand(shape, generator=g) for name, shape in shapes.items()}
    (tmp_path / "w.prm").write_bytes(pickle.dumps(make_neon.model("small_bn", tensors, norm_eps=eps), protocol=2))
    read = check("small_bn", neon_file.read(tmp_path / "w.prm").named("small_bn"))
    for name, tensor in tensors.items():
        # y = gamma * (x - mean) / sqrt(var + eps) + beta; ours adds 1e-5.
        expected = tensor + (eps - 1e-5) if name.endswith("running_var") else tensor
        assert torch.allclose(read[name], expected, atol=1e-7), name


def test_half_floats_become_floats(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    described = make_neon.model("tinyvgg", {k: t.half() for k, t in tiny.items()})
    (tmp_path / "w.prm").write_bytes(make_neon.python2(described))
    read = check("tinyvgg", neon_file.read(tmp_path / "w.prm").named("tinyvgg"))
    assert all(torch.equal(read[k], tiny[k].half().float()) for k in tiny)


def test_golden_bytes(tmp_path: Path) -> None:
    """One convolution of a 1 x 2 filter over one channel, W (2, 1) = 1.5, -2, and its bias 0.25, opcode by opcode."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K%cK\x01\x86cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U%c%stb"
    )
    kernel = array % (2, 8, bytes.fromhex("0000c03f 000000c0"))
    bias = array % (1, 4, bytes.fromhex("0000803e"))
    config = b"U\x06config}U\x06fshape(K\x01K\x02K\x01ts"
    data = b"\x80\x02}U\x05model}(U\x04typeU\x20neon.layers.container.SequentialU\x06config}U\x06layers]("
    data += b"}(U\x04typeU\x0bConvolution" + config + b"U\x06params}U\x01W" + kernel + b"su"
    data += b"}(U\x04typeU\x04BiasU\x06params}U\x01W" + bias + b"su" + b"esus."
    (tmp_path / "w.p").write_bytes(data)
    assert pickle.loads(data, encoding="latin-1")["model"]["type"].endswith("Sequential")  # a pickle to Python too
    read = neon_file.read(tmp_path / "w.p").own()
    assert {k: t.tolist() for k, t in read.items()} == {
        "conv number 1.weight": [[[[1.5, -2.0]]]],
        "conv number 1.bias": [0.25],
    }


def edited(tiny: dict[str, Tensor], **changes: Any) -> dict[str, Any]:
    return make_neon.model("tinyvgg", tiny) | changes


def container(*found: dict[str, Any], kind: str = "Sequential") -> dict[str, Any]:
    return {"model": {"type": kind, "config": {"layers": list(found)}}}


W = np.ones((9, 2), np.float32)
CONV = make_neon.layer("Convolution", {"fshape": (3, 3, 2)}, W=W)
LOOP: list[Any] = []
LOOP.append({"type": "Sequential", "config": {"layers": LOOP}})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds no dict"),
        ({"a": 1}, "no entry `model`"),
        ({"layer_params_states": []}, "oldest format"),
        ({"model": 5}, "a layer has no type"),
        (container(), "no convolutions"),
        (container(CONV, kind="Tree"), "container 'Tree' branches"),
        ({"model": LOOP[0]}, "more than 10,000 layers"),
        (container({"type": "Convolution", "config": 5}), "no config or no params"),
        (container({"type": "LSTM"}), "a layer 'LSTM', which is not a part of a VGG"),
        (container(make_neon.layer("Bias", {}, W=W[:, :1])), "Bias follows neither"),
        (
            container(CONV, make_neon.layer("Activation", {}), make_neon.layer("Bias", {}, W=W[:2, :1])),
            "follows neither",
        ),
        (container(CONV, make_neon.layer("Bias", {}, W=W)), "where a column is wanted"),
        (container(make_neon.layer("Convolution", {}, W=W)), "how large its filters are"),
        (
            container(make_neon.layer("Convolution", {"fshape": (2, 3, 2)}, W=W)),
            r"W \(9, 2\) says that its filters are",
        ),
        (
            container(make_neon.layer("Convolution", {"fshape": (3, 3, 3)}, W=W)),
            r"W \(9, 2\) says that its filters are",
        ),
        (container(make_neon.layer("Convolution", {"fshape": (3, 3, 2)}, W=W.astype(int))), "no matrix W of floats"),
        (container(make_neon.layer("Linear", {}, W=W[0])), "no matrix W of floats"),
        (container(CONV, make_neon.layer("BatchNorm", {"eps": "1"}, gamma=W)), "no usable eps"),
    ],
)
def test_models_of_another_kind_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "w.prm").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(UserError, match=message):
        neon_file.read(tmp_path / "w.prm")


def test_the_mkl_backends_files_are_refused(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    (tmp_path / "w.prm").write_bytes(pickle.dumps(edited(tiny, backend={"type": "NervanaMKL"}), protocol=2))
    with pytest.raises(UserError, match="MKL backend saved it"):
        neon_file.read(tmp_path / "w.prm")


def test_files_cut_short_are_refused(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    data = make_neon.python2(make_neon.model("tinyvgg", tiny))
    for cut in (*range(0, 400, 7), *range(400, len(data), 997), len(data) - 1):
        (tmp_path / "w.p").write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"w\.p is not a model of neon's"):
            neon_file.read(tmp_path / "w.p")
