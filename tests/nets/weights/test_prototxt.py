"""Descriptions of Caffe networks as people cut them down: what both files have is taken, up to where they part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.weights.convert import Converted, convert
from tests.nets.weights.test_caffe_file import net as caffe_net

V1 = {"Convolution": "CONVOLUTION", "InnerProduct": "INNER_PRODUCT", "ReLU": "RELU", "Pooling": "POOLING"}
Convert = Callable[[str], Converted]


def step(kind: str, name: str, bottom: str, top: str, more: str = "", *, v1: bool = False) -> str:
    kind, field = (V1.get(kind, kind.upper()), "layers") if v1 else (f'"{kind}"', "layer")
    return f'{field} {{ name: "{name}" type: {kind} bottom: "{bottom}" top: "{top}" {more} }}\n'


def network(tensors: dict[str, Tensor], until: str, *, v1: bool = False) -> str:
    """The deploy.prototxt of tinyvgg up to a layer with weights: ReLUs in place, a pooling before each block."""
    text, blob = "", "data"
    for name in dict.fromkeys(key.split(".")[0] for key in tensors):
        if name.endswith("_1") and name != "conv1_1":
            text += step("Pooling", f"before_{name}", blob, f"before_{name}", "pooling_param { pool: MAX }", v1=v1)
            blob = f"before_{name}"
        kind, field = ("Convolution", "convolution") if name.startswith("conv") else ("InnerProduct", "inner_product")
        rows = len(tensors[f"{name}.bias"])
        text += step(kind, name, blob, name, f"{field}_param {{ num_output: {rows} }}", v1=v1)
        text += step("ReLU", f"relu_{name}", name, name, v1=v1)
        blob = name
        if name == until:
            break
    return text


@pytest.fixture
def read(tmp_path: Path, tiny: dict[str, Tensor]) -> Convert:
    """What `convert` makes of tinyvgg's weights by a description."""

    def by(deploy: str) -> Converted:
        (tmp_path / "w.caffemodel").write_bytes(caffe_net(tiny, v1=False))
        (tmp_path / "deploy.prototxt").write_text(deploy)
        return convert(tmp_path / "w.caffemodel", arch="tinyvgg", deploy=tmp_path / "deploy.prototxt")

    return by


def unused(done: Converted) -> dict[str, str]:
    return {entry.name: entry.why for entry in done.account if entry.outcome == "unused"}


@pytest.mark.parametrize("v1", [True, False])
@pytest.mark.parametrize("until", ["conv1_2", "conv5_3", "fc6", "fc7", "fc8"])
def test_cut_after_any_layer_with_a_sigmoid_at_its_end(
    read: Convert, tiny: dict[str, Tensor], until: str, v1: bool
) -> None:
    names = list(dict.fromkeys(key.split(".")[0] for key in tiny))
    done = read(network(tiny, until, v1=v1) + step("Sigmoid", "encode", until, "encode", v1=v1))
    assert list(done.weights.tensors)[-1] == f"{until}.bias"
    assert all(torch.equal(t, tiny[k]) for k, t in done.weights.tensors.items())
    left = dict.fromkeys(names[names.index(until) + 1 :], "it is not in deploy.prototxt")
    assert unused(done) == left | {"encode": "it is not computed here"}


def test_a_side_branch_takes_nothing_from_the_trunk(read: Convert, tiny: dict[str, Tensor]) -> None:
    trunk = network(tiny, "fc8")
    at = trunk.index('layer { name: "fc7"')
    done = read(trunk[:at] + step("Sigmoid", "encode6", "fc6", "encode6") + trunk[at:])
    assert list(done.weights.tensors) == list(tiny) and list(unused(done)) == ["encode6"]


@pytest.mark.parametrize(
    ("kind", "more"), [("Sigmoid", ""), ("TanH", ""), ("LRN", ""), ("Pooling", "pooling_param { pool: AVE }")]
)
def test_what_reads_another_networks_values_is_left_out(
    read: Convert, tiny: dict[str, Tensor], kind: str, more: str
) -> None:
    """A layer trained on sigmoids gives other values behind our ReLU."""
    trunk = network(tiny, "fc8")
    at = trunk.index('layer { name: "conv4_2"')
    done = read(trunk[:at] + step(kind, "odd", "conv4_1", "conv4_1", more) + trunk[at:])
    assert list(done.weights.tensors)[-1] == "conv4_1.bias"
    assert unused(done)["conv4_2"] == unused(done)["fc8"] == "it comes after odd"


def test_a_new_layer_without_weights_ends_it(read: Convert, tiny: dict[str, Tensor]) -> None:
    new = step("InnerProduct", "fc8_flowers", "fc7", "fc8_flowers", "inner_product_param { num_output: 102 }")
    done = read(network(tiny, "fc7") + new)
    assert list(done.weights.tensors)[-1] == "fc7.bias"
    assert unused(done) == {"fc8_flowers": "the model has no weights for it", "fc8": "it is not in deploy.prototxt"}


def test_descriptions_of_other_networks_are_still_refused(read: Convert, tiny: dict[str, Tensor]) -> None:
    trunk = network(tiny, "fc8")
    lines = [line for line in trunk.splitlines() if 'name: "conv3_2"' not in line]
    with pytest.raises(UserError, match=r"of different networks: conv3_2 is not in deploy\.prototxt$"):
        read("\n".join(lines))
    with pytest.raises(UserError, match="of different networks: conv1_1x has no weights in the model"):
        read(trunk.replace('"conv1_1"', '"conv1_1x"'))
    with pytest.raises(UserError, match="conv2_1 has 6 outputs in the model, 7 in"):
        read(trunk.replace("num_output: 6", "num_output: 7", 1))
