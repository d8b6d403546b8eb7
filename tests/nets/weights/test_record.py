"""The record of weights and its file: golden bytes, what identifies weights, and files that are not whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.weights import Preprocessing, Weights, held_layers, read_canonical, require_held, write_canonical

BGR = Preprocessing("bgr", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
PREPROCESSING_JSON = '{"channels":"bgr","mean":[103.939,116.779,123.68],"scale":1.0,"std":[1.0,1.0,1.0]}'


def first_layer() -> dict[str, Tensor]:
    """tinyvgg up to conv1_1: (4, 3, 3, 3) counting up in eighths, and 4 biases."""
    return {
        "conv1_1.weight": torch.arange(108, dtype=torch.float32).reshape(4, 3, 3, 3) / 8,
        "conv1_1.bias": torch.tensor([0.5, -0.5, 0.25, -0.25]),
    }


def test_golden_bytes(tmp_path: Path) -> None:
    weights = Weights.make("tinyvgg", first_layer(), BGR, {"source": "test"})
    floats = struct.pack("<112f", *(i / 8 for i in range(108)), 0.5, -0.5, 0.25, -0.25)
    identity = (
        f'{{"arch":"tinyvgg","preprocessing":{PREPROCESSING_JSON},'
        '"tensors":[["conv1_1.weight",[4,3,3,3]],["conv1_1.bias",[4]]]}'
    )
    sha256 = hashlib.sha256(identity.encode() + b"\0" + floats).hexdigest()
    assert weights.sha256 == sha256 == "36bdd2fe3282e62f24a2becd42c79bd6cf12f0d908de3c6dddf5baf40c319cfc"

    about = (
        f'{{"arch":"tinyvgg","classes":null,"preprocessing":{PREPROCESSING_JSON},'
        f'"provenance":{{"source":"test"}},"sha256":"{sha256}","version":1}}'
    )
    header = (
        f'{{"__metadata__":{{"cnncodes":{json.dumps(about)}}},'
        '"conv1_1.bias":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        '"conv1_1.weight":{"dtype":"F32","shape":[4,3,3,3],"data_offsets":[16,448]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    write_canonical(weights, tmp_path / "w.safetensors")
    expected = struct.pack("<Q", len(header)) + header + floats[432:] + floats[:432]
    assert (tmp_path / "w.safetensors").read_bytes() == expected


def test_round_trip(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    weights = Weights.make("tinyvgg", tiny, BGR, {"source": "test", "n": 1}, ("a", "b", "ü", "d", "e"))
    write_canonical(weights, tmp_path / "w.safetensors")
    read = read_canonical(tmp_path / "w.safetensors")
    assert list(read.tensors) == list(weights.tensors)
    assert all(torch.equal(read.tensors[k], tiny[k]) for k in tiny)
    for field in ("arch", "preprocessing", "provenance", "sha256", "classes", "num_classes"):
        assert getattr(read, field) == getattr(weights, field), field


def test_a_written_file_is_as_readable_as_others(tmp_path: Path) -> None:
    write_canonical(Weights.make("tinyvgg", first_layer(), BGR, {}), tmp_path / "w.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert {p.name for p in tmp_path.iterdir()} == {"w.safetensors", "other"}


def test_sha256_changes_with_all_that_changes_a_value_and_with_nothing_else(tiny: dict[str, Tensor]) -> None:
    base = Weights.make("tinyvgg", tiny, BGR, {"source": "one"})
    shuffled = dict(reversed(tiny.items()))
    assert Weights.make("tinyvgg", shuffled, BGR, {"source": "two"}).sha256 == base.sha256
    nudged = {k: t.clone() for k, t in tiny.items()}
    nudged["fc7.bias"][3] = np.nextafter(nudged["fc7.bias"][3].item(), 9, dtype=np.float32).item()
    assert Weights.make("tinyvgg", nudged, BGR, {}).sha256 != base.sha256
    rgb = dataclasses.replace(BGR, channels="rgb")
    assert Weights.make("tinyvgg", tiny, rgb, {}).sha256 != base.sha256


def test_held_layers_end_where_the_weights_do(tiny: dict[str, Tensor]) -> None:
    convolutions = {k: t for k, t in tiny.items() if k.startswith("conv")}
    held = held_layers(Weights.make("tinyvgg", convolutions, BGR, {}))
    assert held[:3] == ("conv1_1.pre", "conv1_1", "conv1_2.pre") and held[-2:] == ("conv5_3", "pool5")
    assert held_layers(Weights.make("tinyvgg", tiny, BGR, {}))[-1] == "prob"


def test_a_layer_that_is_not_held_is_refused_naming_weights_that_have_it(tiny: dict[str, Tensor]) -> None:
    weights = Weights.make("tinyvgg", {k: t for k, t in tiny.items() if k.startswith("conv")}, BGR, {"source": "demo"})
    assert require_held(weights, "pool5") == "pool5"
    with pytest.raises(UserError) as e:
        require_held(weights, "fc7")
    assert "weights demo of tinyvgg stop at pool5, so they have no fc7" in str(e.value)
    assert "torchvision:IMAGENET1K_V1, random:SEED" in str(e.value)
    with pytest.raises(UserError, match="tinyvgg has no layer 'fc9'"):
        require_held(weights, "fc9")


@pytest.mark.parametrize("keep", [0, 7, 100, -100, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    write_canonical(Weights.make("tinyvgg", first_layer(), BGR, {}), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"w\.safetensors is not a whole safetensors file.*cut short"):
        read_canonical(path)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_canonical(Weights.make("tinyvgg", first_layer(), BGR, {}), path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"w\.safetensors is damaged"):
        read_canonical(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "has version 99; allowed: 1"),
        ({"arch": "resnet50"}, "unknown architecture 'resnet50'"),
        ({"preprocessing": {"channels": "bgr"}}, r"problem.*preprocessing\.scale.*mean.*std"),
        (
            {"preprocessing": json.loads(PREPROCESSING_JSON) | {"channels": "cmyk"}},
            r"1 problem.*preprocessing\.channels",
        ),
        ({"classes": ["a", "b"]}, "name 2 classes, fc8 has no rows"),
        ({"sha256": None}, r"1 problem: sha256"),
    ],
)
def test_metadata_that_lies_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "w.safetensors"
    weights = Weights.make("tinyvgg", first_layer(), BGR, {})
    about = {
        "version": 1,
        "arch": "tinyvgg",
        "preprocessing": json.loads(PREPROCESSING_JSON),
        "provenance": {},
        "sha256": weights.sha256,
        "classes": None,
    }
    about = {k: v for k, v in (about | change).items() if not (k == "sha256" and v is None)}
    save_file(first_layer(), path, metadata={"cnncodes": json.dumps(about)})
    with pytest.raises(UserError, match=message):
        read_canonical(path)


def test_a_foreign_safetensors_file_is_not_canonical(tmp_path: Path) -> None:
    save_file(first_layer(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="is not a canonical weights file"):
        read_canonical(tmp_path / "w.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights file at .*none\.safetensors"):
        read_canonical(tmp_path / "none.safetensors")
