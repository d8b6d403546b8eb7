"""Reads what torch.save wrote (.pth, .pt, .bin, .ckpt, .pth.tar): state dicts, and checkpoints that hold one.

Checkpoints of training scripts also hold settings and counts as objects of any package. They are no weights: torch's
restricted unpickler is given empty stand-ins for them, so that nothing a file names is imported or called.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.base.budget import Budget
from pipeline.base.errors import UserError
from pipeline.base.failing import reading
from pipeline.nets.weights.legacy import torch_pickle
from pipeline.nets.weights.preprocessings import TORCHVISION
from pipeline.nets.weights.state_dict import StateDict

# What torch's unpickler raises on files that are cut short or made up. It has no exception of its own for them.
_BROKEN = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError,
    struct.error, zipfile.BadZipFile, tarfile.TarError, zlib.error, NotImplementedError, AssertionError, MemoryError,
)  # fmt: skip
# What of Python's own library a checkpoint may name: plain values, and settings. Any other, such as eval, is code.
_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
_VALUES = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "slice",
    "str", "tuple",
)  # fmt: skip
_PLAIN = frozenset(
    {
        "_codecs.encode", "argparse.Namespace", "collections.Counter", "collections.OrderedDict",
        "collections.defaultdict", "datetime.date", "datetime.datetime", "datetime.timedelta", "types.SimpleNamespace",
        "typing.Any", "uuid.UUID", *(f"builtins.{name}" for name in _VALUES),
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    }
)  # fmt: skip
_ALLOWED = "a state dict: torch.save(model.state_dict(), path), or a .safetensors file"
# A file of torch before 1.6 is four pickles (magic number, protocol, system, content), then the tensors' bytes.
_LEGACY_PICKLES = 4
# In place of a record's checksum where none was asked for (torch.serialization.set_crc32_options).
_NO_CHECKSUM = 0
_AT_ONCE_BYTES = 1 << 20


class _Opaque:
    """In place of a number, path or date: takes whatever it is made of, and keeps none of it."""

    def __new__(cls, *_: Any) -> _Opaque:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        return


class _Record:
    """In place of other objects: a dict, since dicts of another class are filled as one."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def read(path: Path) -> StateDict:
    """The weights in a file; no code in it is run.

    Raises UserError if the file is missing, broken, holds code or a program, has no tensors under names, or asks for
    more than its length allows.
    """
    try:
        budget = Budget(path, path.stat().st_size)
        names = _named(path, budget)
        _require_no_code(path, names)
        stand_ins: list[Any] = [(_Opaque if _is_opaque(name) else _Record, name) for name in names]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to who saved the file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN:
        # torch's own words are not passed on: they advise to load the file with its code.
        raise UserError(
            f"{path} is not a whole file of torch's that holds weights; it may have been cut short", allowed=_ALLOWED
        ) from None
    if isinstance(content, Mapping) and all(isinstance(name, str) for name in content):
        found = StateDict.of(content, TORCHVISION, budget)
        if found.tensors:
            return found
    objects = [name for name in names if not _is_opaque(name) and not name.startswith("torch._utils.")]
    held = f"more than weights (objects: {', '.join(objects)})" if objects else type(content).__name__
    raise UserError(f"{path} holds {held}, no tensors under names", allowed=_ALLOWED)


def _require_no_code(path: Path, names: list[str]) -> None:
    code = [n for n in names if n.partition(".")[0] in sys.stdlib_module_names and n not in _PLAIN]
    if code:
        raise UserError(
            f"{path} holds more than weights: it names {', '.join(code)}, which is code; it was not loaded",
            allowed=_ALLOWED,
        )


def _is_opaque(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names | {"numpy"} and name != "collections.defaultdict"


def _named(path: Path, budget: Budget) -> list[str]:
    """What a file's pickles name, in order, as `module.name` of Python 3.

    Raises UserError on a program and on a file whose records are not what their checksums say.
    """
    if not zipfile.is_zipfile(path):
        if tarfile.is_tarfile(path):  # torch would unpack its oldest format into a folder
            raise ValueError("a tar archive")
        with reading(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return torch_pickle.names(mapped, _LEGACY_PICKLES, budget)
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        entries = {entry.filename.partition("/")[2]: entry for entry in records}
        if "constants.pkl" in entries:
            raise UserError(f"{path} is a TorchScript archive, a program with its weights", allowed=_ALLOWED)
        if "data.pkl" not in entries:
            raise ValueError("no pickle")
        budget.make(sum(entry.file_size for entry in records))
        _require_checksums(path, archive)
        return torch_pickle.names(io.BytesIO(archive.read(entries["data.pkl"])), 1, budget)


def _require_checksums(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises UserError unless the records are what they were when they were written: torch itself doesn't look."""
    for entry in archive.infolist():
        if entry.CRC == _NO_CHECKSUM:
            entry.CRC = None  # type: ignore[assignment]  # for zipfile: none to compare with
            continue
        try:
            with archive.open(entry) as record:
                while record.read(_AT_ONCE_BYTES):
                    pass
        except zipfile.BadZipFile:
            raise UserError(
                f"{path} is damaged: {entry.filename} in it does not match its checksum", allowed=_ALLOWED
            ) from None
