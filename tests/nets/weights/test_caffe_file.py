"""Caffe models, written here by the published schema (caffe.proto), since Caffe itself can't be installed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.weights.check import check
from pipeline.nets.weights.legacy import caffe_file
from pipeline.nets.weights.preprocessings import CAFFE
from pipeline.nets.weights.sources import from_file


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(values: np.ndarray, *, legacy: bool) -> bytes:
    """A BlobProto, with num, channels, height, width or with a BlobShape."""
    data = message(5, values.astype("<f4").tobytes())
    if not legacy:
        return message(7, message(1, b"".join(varint(d) for d in values.shape))) + data
    axes = (1,) * (4 - values.ndim) + values.shape
    return b"".join(number(i, d) for i, d in enumerate(axes, start=1)) + data


def net(tensors: dict[str, Tensor], *, v1: bool) -> bytes:
    """A NetParameter with layers of the V1 or the present kind, with the layers between that have no weights."""
    layers, name_field, blobs_field = (2, 4, 6) if v1 else (100, 1, 7)
    out = message(1, b"VGG")
    for layer in dict.fromkeys(name.split(".")[0] for name in tensors):
        blobs = b"".join(
            message(blobs_field, blob(tensors[f"{layer}.{part}"].numpy(), legacy=v1)) for part in ("weight", "bias")
        )
        out += message(layers, message(name_field, layer.encode()) + number(5, 4) * v1 + blobs)
        out += message(layers, message(name_field, b"relu") + message(2 if v1 else 3, layer.encode()))
    return out


@pytest.mark.parametrize("v1", [True, False])
def test_both_kinds_of_layers(tmp_path: Path, tiny: dict[str, Tensor], v1: bool) -> None:
    (tmp_path / "w.caffemodel").write_bytes(net(tiny, v1=v1))
    weights = from_file(tmp_path / "w.caffemodel", "tinyvgg")
    assert all(torch.equal(weights.tensors[k], tiny[k]) for k in tiny)
    assert weights.preprocessing == CAFFE


def test_golden_bytes(tmp_path: Path) -> None:
    """One layer `a` of two weights (1, 1, 1, 2) = 1.5, -2 and a bias 0.25, byte by byte."""
    data = bytes.fromhex(
        "12 29"  # layers, 41 bytes
        "22 01 61"  # name: a
        "32 12 08 01 10 01 18 01 20 02 2a 08 0000c03f 000000c0"  # blob 1 1 1 2, data of 8 bytes
        "32 0e 08 01 10 01 18 01 20 01 2a 04 0000803e"
        "28 04"  # type: CONVOLUTION
    )
    assert len(data) == 2 + 0x29
    (tmp_path / "w.caffemodel").write_bytes(data)
    read = caffe_file.read(tmp_path / "w.caffemodel").named("tinyvgg")
    assert {k: t.tolist() for k, t in read.items()} == {"a.weight": [[1.5, -2.0]], "a.bias": [0.25]}


def test_values_written_one_by_one_and_doubles(tmp_path: Path) -> None:
    unpacked = b"".join(varint(5 << 3 | 5) + struct.pack("<f", v) for v in (1.0, 2.0))
    doubles = message(8, struct.pack("<2d", 3.0, 4.0))
    shape = message(7, number(1, 1) + number(1, 2))
    layer = message(1, b"a") + message(7, shape + unpacked) + message(7, message(7, number(1, 2)) + doubles)
    (tmp_path / "w.caffemodel").write_bytes(message(100, layer))
    read = caffe_file.read(tmp_path / "w.caffemodel").named("tinyvgg")
    assert read["a.weight"].tolist() == [[1.0, 2.0]] and read["a.bias"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("seed", range(25))
def test_files_cut_short_are_refused(tmp_path: Path, tiny: dict[str, Tensor], seed: int) -> None:
    data = net(tiny, v1=bool(seed % 2))
    cut = int(np.random.default_rng(seed).integers(1, len(data)))
    (tmp_path / "w.caffemodel").write_bytes(data[:cut])
    with pytest.raises(UserError):
        check("tinyvgg", caffe_file.read(tmp_path / "w.caffemodel").named("tinyvgg"))


@pytest.mark.parametrize(
    ("data", "message_"),
    [
        (b"", "holds no layers with weights"),
        (b"\xff" * 20, "a number of more than ten bytes"),
        (b"\x12\xff\xff\xff\xff\x07\x00", "2147483647 bytes are announced where 1 are left"),
        (b"\x13\x00", "wire type 3"),
        (message(100, message(7, message(7, number(1, 1 << 40)) + message(5, b"\0" * 4))), "holds 1 values"),
        (message(100, message(7, message(5, b"\0" * 5))), "no whole number of values"),
        (message(2, message(1, b"\x0a\x01a")), "holds no layers with weights"),  # V0
    ],
)
def test_files_that_lie_are_refused(tmp_path: Path, data: bytes, message_: str) -> None:
    (tmp_path / "w.caffemodel").write_bytes(data)
    with pytest.raises(UserError, match=message_):
        caffe_file.read(tmp_path / "w.caffemodel")


def test_layers_of_other_names_are_reported(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    tiny["fc8_flickr.weight"], tiny["fc8_flickr.bias"] = tiny.pop("fc8.weight"), tiny.pop("fc8.bias")
    (tmp_path / "w.caffemodel").write_bytes(net(tiny, v1=True))
    with pytest.raises(UserError, match=r"unexpected: fc8_flickr\.bias, fc8_flickr\.weight"):
        from_file(tmp_path / "w.caffemodel", "tinyvgg")
