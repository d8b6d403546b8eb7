"""No file runs code, opens another file or claims memory: proved under an audit hook, in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.weights import WEIGHT_READERS, random
from pipeline.nets.weights.sources import open_file
from tests.nets.weights.test_caffe_file import message, number
from tests.nets.weights.test_sources import write

ROOT = Path(__file__).parents[3]


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch PWNED",)


class Evaluates:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('PWNED', 'w')",)


def _torch_zip(path: Path) -> None:
    torch.save({"w": torch.zeros(1), "x": Runs()}, path)


def _torch_legacy(path: Path) -> None:
    torch.save({"x": Evaluates()}, path, _use_new_zipfile_serialization=False)


def _torch_zip_of_lies(path: Path) -> None:
    """A storage of a terabyte in a zip of a kilobyte."""
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"K\x04t", b"\x8a\x06\0\0\0\0\0\x01t"))


def _safetensors_of_lies(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def _safetensors_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def _onnx(path: Path, **changes: object) -> None:
    model = onnx.load(path.with_name("healthy.onnx"))
    tensor = model.graph.initializer[0]
    if "elsewhere" in changes:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        for key, value in {"location": str(changes["elsewhere"]), "offset": "0", "length": "432"}.items():
            tensor.external_data.add(key=key, value=value)
    else:
        del tensor.dims[:]
        tensor.dims.extend([1 << 20, 1 << 20, 3, 3])
    path.write_bytes(model.SerializeToString())


def _onnx_loop(path: Path) -> None:
    """A value that is read from itself, and one that two nodes make."""
    model = onnx.load(path.with_name("healthy.onnx"))
    name = model.graph.initializer[0].name
    twice = onnx.helper.make_node("Identity", [name], [name])
    model.graph.node.insert(0, twice)
    path.write_bytes(model.SerializeToString())


def _keras_lambda(path: Path) -> None:
    """A model whose config names a Lambda of marshalled code; what it has of weights is no VGG."""
    config = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wAA"}}}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": [config]}})
        file.create_group("model_weights").attrs["layer_names"] = np.array([b"lambda"])
        file["model_weights"].create_group("lambda").attrs["weight_names"] = np.array([], dtype="S1")


def _keras_pickle_in_a_dataset(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.void(pickle.dumps(Runs()))


def _keras_link(path: Path, link: object) -> None:
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = link


def _keras_external_data(path: Path) -> None:
    with h5py.File(path, "w") as file:
        external = [(str(path.with_name("healthy.h5")), 0, 432)]
        file.create_dataset("layers/conv2d/vars/0", (3, 3, 3, 4), "f4", external=external)


def _keras_of_lies(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (1 << 20, 1 << 20, 3, 3), "f4", chunks=(16, 16, 3, 3))


def _keras_zip_of_lies(path: Path) -> None:
    """A hundred megabytes of zeros in a zip of a hundred kilobytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(100_000_000))


def _keras_zip_of_links(path: Path) -> None:
    _keras_link(path.with_suffix(".inner"), h5py.ExternalLink("/etc/passwd", "/x"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".inner"), "model.weights.h5")
        archive.writestr("config.json", '{"class_name": "Lambda"}')


def _caffe(path: Path, blob: bytes) -> None:
    path.write_bytes(message(100, message(1, b"conv1_1") + message(7, blob)))


HOSTILE: dict[str, dict[str, Callable[[Path], None]]] = {
    "pth": {
        "os.system": _torch_zip,
        "eval, legacy": _torch_legacy,
        "a bare pickle": lambda p: p.write_bytes(pickle.dumps(Runs())) and None,
        "a size that lies": _torch_zip_of_lies,
    },
    "pt": {"os.system": _torch_zip},
    "bin": {"eval, legacy": _torch_legacy, "a size that lies": _torch_zip_of_lies},
    "ckpt": {"os.system": _torch_zip, "a bare pickle": lambda p: p.write_bytes(pickle.dumps(Evaluates())) and None},
    "pth.tar": {"os.system": _torch_zip, "eval, legacy": _torch_legacy},
    "keras": {"a size that lies": _keras_zip_of_lies, "an external link": _keras_zip_of_links},
    "safetensors": {"a size that lies": _safetensors_of_lies, "a header that lies": _safetensors_header},
    "onnx": {
        "data elsewhere": lambda p: _onnx(p, elsewhere="../../etc/passwd"),
        "data at an absolute path": lambda p: _onnx(p, elsewhere="/etc/passwd"),
        "a size that lies": _onnx,
        "a loop": _onnx_loop,
    },
    "caffemodel": {
        "a length that lies": lambda p: p.write_bytes(b"\xa2\x06\xff\xff\xff\xff\x7f" + b"x" * 50) and None,
        "a shape that lies": lambda p: _caffe(p, message(7, number(1, 1 << 50)) + message(5, b"\0" * 8)),
    },
    "h5": {
        "a Lambda": _keras_lambda,
        "a pickle": _keras_pickle_in_a_dataset,
        "an external link": lambda p: _keras_link(p, h5py.ExternalLink("/etc/passwd", "/x")),
        "an external link to a device": lambda p: _keras_link(p, h5py.ExternalLink("/dev/zero", "/x")),
        "a soft link": lambda p: _keras_link(p, h5py.SoftLink("/layers/conv2d/vars/0")),
        "data elsewhere": _keras_external_data,
        "a size that lies": _keras_of_lies,
    },
    "p": {
        "os.system": lambda p: p.write_bytes(pickle.dumps({"model": Runs()}, protocol=2)) and None,
        "eval": lambda p: p.write_bytes(pickle.dumps({"model": Evaluates()})) and None,
        "posix.system, protocol 0": lambda p: p.write_bytes(b"cposix\nsystem\n(S'touch PWNED'\ntR.") and None,
        "a name of this library": lambda p: (
            p.write_bytes(b"cpipeline.base.json_files\nread\n(S'/etc/passwd'\ntR.") and None
        ),
        "a module never loaded": lambda p: p.write_bytes(b"cantigravity\nfly\n)R.") and None,
        "a size that lies": lambda p: p.write_bytes(b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little")) and None,
    },
    "prm": {"os.system": lambda p: p.write_bytes(pickle.dumps(Runs(), protocol=2)) and None},
}


def test_every_format_has_hostile_files() -> None:
    assert {f".{suffix}" for suffix in HOSTILE} == set(WEIGHT_READERS)


def test_under_an_audit_hook_nothing_is_run_written_or_imported(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    files = []
    for suffix, made in HOSTILE.items():
        write(tmp_path / f"healthy.{suffix}", tiny)
        for i, (name, make) in enumerate(made.items()):
            files.append((name, tmp_path / f"hostile{i}.{suffix}"))
            make(files[-1][1])
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-W", "ignore", "-m", "tests.nets.weights.under_hook", *(str(path) for _, path in files)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(files), done.stdout
    for (name, path), line in zip(files, said, strict=True):
        assert path.name in line, f"{path.suffix}, {name}: {line}"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", HOSTILE)
def test_sizes_that_lie_claim_no_memory(tmp_path: Path, tiny: dict[str, Tensor], suffix: str) -> None:
    write(tmp_path / f"healthy.{suffix}", tiny)
    open_file(tmp_path / f"healthy.{suffix}").named("tinyvgg")
    for name, make in HOSTILE[suffix].items():
        if "lies" in name:
            make(tmp_path / f"w.{suffix}")
            tracemalloc.start()
            with pytest.raises(UserError):
                open_file(tmp_path / f"w.{suffix}").named("tinyvgg")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 5_000_000, name


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "onnx", "caffemodel", "h5", "p"])
def test_cut_anywhere_a_file_is_refused_or_lacks_layers(tmp_path: Path, tiny: dict[str, Tensor], suffix: str) -> None:
    path = write(tmp_path / f"w.{suffix}", tiny)
    data = path.read_bytes()
    for cut in {*range(0, 200, 9), *range(200, len(data), max(len(data) // 40, 1)), len(data) - 1}:
        path.write_bytes(data[:cut])
        try:
            found = open_file(path).named("tinyvgg")
        except UserError:
            continue
        assert found.keys() < tiny.keys(), cut


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "onnx", "caffemodel", "h5", "p"])
def test_changed_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, suffix: str) -> None:
    """Never another exception: a stranger's file ends in a sentence."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("fuzz")
    healthy = write(folder / f"healthy.{suffix}", random.tensors("tinyvgg", 0, num_classes=2))
    data = healthy.read_bytes()
    head = min(len(data), 4000)  # where a format's structure mostly lies

    @given(st.lists(st.tuples(st.integers(0, head - 1), st.integers(0, 255)), min_size=1, max_size=4))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def fuzz(changes: list[tuple[int, int]]) -> None:
        broken = bytearray(data)
        for at, value in changes:
            broken[at] = value
        (folder / f"w.{suffix}").write_bytes(broken)
        try:
            open_file(folder / f"w.{suffix}").named("tinyvgg")
        except UserError:
            return

    fuzz()


@pytest.mark.parametrize("change", ["a size beyond the end", "packed as noise"])
def test_a_keras_archive_whose_member_can_not_be_unpacked_is_refused(
    tmp_path: Path, tiny: dict[str, Tensor], change: str
) -> None:
    path = write(tmp_path / "w.keras", tiny)
    data = bytearray(path.read_bytes())
    name = b"model.weights.h5"
    entry = data.rindex(name) - 46  # of the central directory
    assert data[entry : entry + 4] == b"PK\1\2"
    if change == "a size beyond the end":
        data[entry + 20 : entry + 28] = 2 * len(data).to_bytes(4, "little")
    else:
        data[entry + 10] = data[data.index(name) - 22] = zipfile.ZIP_DEFLATED
    path.write_bytes(data)
    with pytest.raises(UserError, match="is not a whole HDF5 file of Keras'"):
        open_file(path)
