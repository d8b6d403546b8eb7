"""Small files that ask for much memory or work, one a way: what a stranger may send."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from tests import jpeg2000_files
from tests.nets.weights.make_neon import layer, python2
from tests.nets.weights.test_caffe_file import message, number

MEGABYTE = 1_000_000
_PROTO = b"\x80\x02"


def _text(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


def _zip(path: Path, pickled: bytes, *, packed: bool = False, **records: bytes) -> None:
    """A zip as torch.save makes it, around any pickle."""
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    top = next(iter(entries)).partition("/")[0]
    entries[f"{top}/data.pkl"] = pickled
    entries |= {f"{top}/{name}": data for name, data in records.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def announced(path: Path) -> None:
    """A byte array that is said to have 3 GB."""
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + bytes(1000) + b".")


def repeated_encodings(path: Path) -> None:
    """A text of a megabyte whose bytes are asked for 3,000 times."""
    text = _text(b"a" * MEGABYTE) + b"q\0" + _text(b"latin1") + b"q\1"
    path.write_bytes(_PROTO + text + b"c_codecs\nencode\nq\x02](" + b"h\2h\0h\1\x86R" * 3000 + b"e.")


def repeated_strings(path: Path) -> None:
    """A string of Python 2 of a megabyte, kept as text 3,000 times."""
    path.write_bytes(_PROTO + b"T" + struct.pack("<i", MEGABYTE) + b"a" * MEGABYTE + b"q\0](" + b"h\0" * 3000 + b"e.")


def repeated_tuples(path: Path) -> None:
    """The same, in tuples of three of three."""
    text = b"T" + struct.pack("<i", MEGABYTE) + b"a" * MEGABYTE + b"q\0"
    path.write_bytes(_PROTO + text + b"](" + b"h\0h\0h\0\x87h\0h\0h\0\x87\x86" * 500 + b"e.")


def dict_of_one_list(path: Path) -> None:
    """A list of 100,000 times one list of 100,000 pairs, made a dict."""
    inner = b"](" + b"K\1" * 100_000 + b"eq\0"
    path.write_bytes(_PROTO + b"ccollections\nOrderedDict\n" + inner + b"0](" + b"h\0" * 100_000 + b"e\x85R.")


def empty_lists(path: Path) -> None:
    """A list of six million empty dicts."""
    path.write_bytes(_PROTO + b"](" + b"}" * 6_000_000 + b"e.")


def long_numbers(path: Path) -> None:
    """Numbers of 100,000 digits."""
    path.write_bytes(_PROTO + b"](" + (b"L" + b"9" * 100_000 + b"L\n") * 10 + b"e.")


def shared_layer(path: Path) -> None:
    """One layer of 9.4 MB, 5,000 times."""
    kernel = np.zeros((512 * 9, 512), np.float32)
    shared = layer("Convolution", {"fshape": (3, 3, 512)}, W=kernel)
    data = python2({"model": layer("Sequential", {"layers": ["HERE"]})})
    one = python2(shared)[2:-1]
    path.write_bytes(data.replace(b"U\4HERE", one + b"r\0\1\0\0" + b"j\0\1\0\0" * 4999))


def torch_bytearray(path: Path) -> None:
    """`bytearray(3 << 30)`, which torch's own unpickler calls."""
    size = b"\x8a\x05" + (3 << 30).to_bytes(5, "little")
    _zip(path, _PROTO + b"c__builtin__\nbytearray\n" + size + b"\x85R.")


def torch_encodings(path: Path) -> None:
    text = _text(b"a" * MEGABYTE) + b"q\0" + _text(b"latin1") + b"q\1"
    _zip(path, _PROTO + text + b"c_codecs\nencode\nq\x02](" + b"h\2h\0h\1\x86R" * 3000 + b"e.")


def torch_announced(path: Path) -> None:
    """A text that is said to have 3 GB, in the format before 1.6."""
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + bytes(1000) + b".")


def torch_sets(path: Path) -> None:
    """A list of 200,000 values made a set, 20,000 times."""
    values = b"](" + b"".join(b"J" + struct.pack("<i", i) for i in range(100_000)) + b"eq\0"
    _zip(path, _PROTO + values + b"c__builtin__\nset\nq\2](" + b"h\2h\0\x85R" * 20_000 + b"e.")


def torch_states(path: Path) -> None:
    """One state of 100,000 entries that 10,000 objects are given."""
    state = b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(65_536)) + b"uq\0"
    _zip(path, _PROTO + state + b"ccollections\nOrderedDict\nq\2](" + b"h\2)Rh\0b" * 10_000 + b"e.")


def torch_names(path: Path) -> None:
    """One dict of 1,000 tensors below 10,000 names, each in a list of its own."""
    saved = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, saved)
    with zipfile.ZipFile(saved) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    tensor = pickled[pickled.index(b"ctorch._utils") : -2] + b"r\0\1\0\0"
    one = _text(b"t") + tensor + _text(b"d") + b"}("
    one += b"".join(_text(str(i).encode()) + b"j\0\1\0\0" for i in range(1000)) + b"ur\1\1\0\0"
    many = b"".join(_text(str(i).encode()) + b"j\1\1\0\0\x85" for i in range(10_000))
    _zip(path, _PROTO + b"}(" + one + many + b"u.", **{"data/0": bytes(16)})


def torch_deflated(path: Path) -> None:
    """Zeros of 200 MB."""
    torch.save({"features.0.weight": torch.zeros(50_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def caffe_blobs(path: Path) -> None:
    """Blobs without a value, six bytes each."""
    path.write_bytes(message(100, message(1, b"conv1_1") + message(7, message(7, number(1, 0))) * 600_000))


def caffe_dims(path: Path) -> None:
    """A blob of 3.5 million axes."""
    dims = message(7, message(1, b"\1" * 3_500_000))
    path.write_bytes(message(100, message(1, b"conv1_1") + message(7, dims + message(5, bytes(4)))))


def onnx_nodes(path: Path) -> None:
    """20,000 convolutions, none with a bias, of one small kernel; an Add of something else after each."""
    kernel = onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "k")
    nodes = [helper.make_node("Conv", [f"x{i}", "k"], [f"x{i + 1}"]) for i in range(20_000)]
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 1, 4, 4])
    graph = helper.make_graph(nodes, "g", [x], [], [kernel])
    path.write_bytes(helper.make_model(graph).SerializeToString())


def onnx_views(path: Path) -> None:
    """A kernel behind 5,000 Identities, read by 5,000 convolutions."""
    kernel = onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "k0")
    nodes = [helper.make_node("Identity", [f"k{i}"], [f"k{i + 1}"]) for i in range(5000)]
    nodes += [helper.make_node("Conv", [f"x{i}", "k5000"], [f"x{i + 1}"]) for i in range(5000)]
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 1, 4, 4])
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [x], [], [kernel])).SerializeToString())


def onnx_empties(path: Path) -> None:
    """A million nodes that say nothing, two bytes each."""
    path.write_bytes(message(7, message(1, b"") * 2_000_000))


def safetensors_header(path: Path) -> None:
    """A header of 90 MB: JSON nested deep."""
    header = b'{"__metadata__":{"cnncodes":"' + b"[" * 50_000_000 + b'"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def safetensors_number(path: Path) -> None:
    header = json.dumps({"__metadata__": {"cnncodes": '{"version":' + "9" * 5000 + "}"}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def prototxt_fields(path: Path) -> None:
    """8 MB of messages of nothing."""
    path.write_text("a{}" * 2_600_000)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"", *, length: int = 0) -> bytes:
    """A black picture, with chunks before its data. With `length` one of that many bytes whose data are not there."""
    data = bytes(length) if length else zlib.compress(bytes((1 + 3 * width) * height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _blocks(width: int, height: int, **settings: int) -> bytes:
    return jpeg2000_files.blocks_of_passes(width, height, data=bytes(8), style=8, **settings)


# Pictures that are refused, or take as long as any of their length may.
IMAGES: dict[str, Callable[[], bytes]] = {
    "a JPEG 2000 of blocks of thirty planes": lambda: _blocks(7000, 7000),
    "as many planes as a short file may have": lambda: _blocks(3550, 3610),
    "as many planes as one of 4.5 MB may have": lambda: _blocks(3950, 3960, padding=4_500_000),
    "planes of code-blocks of 4 x 4": lambda: _blocks(2100, 2100, block=4),
}
WEIGHTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a pickle that announces 3 GB": (".p", announced),
    "a pickle that encodes one text 3,000 times": (".p", repeated_encodings),
    "a pickle of one string 3,000 times": (".p", repeated_strings),
    "a pickle of tuples of one string": (".p", repeated_tuples),
    "a pickle of a dict of one list": (".p", dict_of_one_list),
    "a pickle of empty dicts": (".p", empty_lists),
    "a pickle of long numbers": (".p", long_numbers),
    "one layer 5,000 times": (".prm", shared_layer),
    "a byte array of 3 GB in torch's file": (".pth", torch_bytearray),
    "one text encoded 3,000 times in torch's file": (".pt", torch_encodings),
    "a size that torch's old format announces": (".pth.tar", torch_announced),
    "one list made a set 20,000 times": (".bin", torch_sets),
    "one state given to 10,000 objects": (".ckpt", torch_states),
    "ten million names of one tensor": (".pth", torch_names),
    "deflated zeros": (".pth", torch_deflated),
    "empty blobs": (".caffemodel", caffe_blobs),
    "a blob of many axes": (".caffemodel", caffe_dims),
    "20,000 nodes": (".onnx", onnx_nodes),
    "a long chain of views": (".onnx", onnx_views),
    "two million empty nodes": (".onnx", onnx_empties),
    "metadata nested deep": (".safetensors", safetensors_header),
    "a number of 5,000 digits": (".safetensors", safetensors_number),
}
