"""Tensors of an ONNX model that lie in files beside it, as torch's exporter writes them. No torch here."""

from __future__ import annotations

import math
from pathlib import Path, PureWindowsPath
from typing import Any

from pipeline.base.budget import OBJECT_BYTES, Budget
from pipeline.base.errors import UserError
from pipeline.base.failing import reading
from pipeline.nets import protobuf
from pipeline.nets.mistaken import require_not_mistaken

# TensorProto.DataType of floats -> bytes of a value: FLOAT, FLOAT16, DOUBLE, BFLOAT16.
FLOAT_BYTES = {1: 4, 10: 2, 11: 8, 16: 2}
# What the smallest message takes as an object of the library and one of Python's, and a value in it.
_MESSAGE_BYTES, _FIELD_BYTES = 8 * OBJECT_BYTES, OBJECT_BYTES
# Parts of a path that leave a folder: up, the root of a disk.
_OUTWARD = frozenset({"..", "/", "\\"})


def files(path: Path) -> list[Path]:
    """The files beside a model that its tensors name, sorted. Raises UserError as `model` and `locate` do."""
    with reading(path) as file:
        tensors = model(file.read(), str(path)).graph.initializer
    named = {_entries(tensor).get("location", "") for tensor in tensors if is_external(tensor)}
    return sorted(locate(path, location) for location in named)


def model(data: bytes, where: str) -> Any:
    """A serialised model; nothing outside it is looked at.

    Raises UserError if it is broken, asks for more than its length allows, or `onnx` is missing.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("reading ONNX needs the package onnx", allowed='pip install "cnn-codes[onnx]"') from None
    try:
        _require_proportion(data, onnx.ModelProto.DESCRIPTOR, Budget(where, len(data)))
        return onnx.load_model_from_string(data)
    except (DecodeError, protobuf.BrokenError) as e:
        raise UserError(f"{where} is not a whole ONNX model ({e}); it may have been cut short") from None


def _require_proportion(data: bytes, model: Any, budget: Budget) -> None:
    """Raises TooMuchError on more messages than a file of this length has: two bytes can be one. `model`: how protocol
    buffers describe it."""
    waiting = [(memoryview(data), model)]
    while waiting:
        message, kind = waiting.pop()
        for number, value in protobuf.fields(message):
            budget.make(_FIELD_BYTES)
            described = kind.fields_by_number.get(number)
            if described is not None and described.message_type is not None and isinstance(value, memoryview):
                budget.make(_MESSAGE_BYTES)
                waiting.append((value, described.message_type))


def is_external(tensor: Any) -> bool:
    """Whether a TensorProto's values lie in another file."""
    return bool(tensor.data_location == 1)  # TensorProto.EXTERNAL


def locate(path: Path, location: str) -> Path:
    """The file that a model at `path` calls `location`.

    Raises UserError if that leads out of the model's folder, by an absolute path, `..` or a link, or is no such file.
    """
    folder = path.parent.resolve()
    within = location.isprintable() and not _OUTWARD & {*Path(location).parts, *PureWindowsPath(location).parts}
    file = (folder / location).resolve() if within else folder
    if file == folder or not file.is_relative_to(folder):
        raise UserError(
            f"{path} keeps its tensors at {location!r}", allowed="a file in its folder, with no link out of it"
        )
    if not file.is_file():
        raise UserError(
            f"{path} keeps its tensors in {location}, which is not beside it", allowed="both files together"
        )
    require_not_mistaken(file)
    return file


def read(path: Path, tensor: Any) -> bytes:
    """The bytes of an external tensor of floats of the model at `path`.

    Raises UserError as `locate` does, and if they are not as many as its shape says or the file ends before them.
    """
    entries = _entries(tensor)
    file = locate(path, entries.get("location", ""))
    size = math.prod(tensor.dims) * FLOAT_BYTES[tensor.data_type]
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        offset, length = -1, -1
    if offset < 0 or length != size or offset + size > file.stat().st_size:
        raise UserError(
            f"{path} has a broken tensor {tensor.name}: its {size} bytes are not in {file.name}, which may be cut short"
        )
    with reading(file) as opened:
        opened.seek(offset)
        return opened.read(size)


def _entries(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}
