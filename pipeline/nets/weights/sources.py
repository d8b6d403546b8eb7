"""The `weights` section of params.yaml -> weights, whatever their format was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import WeightsParams
from pipeline.errors import UserError
from pipeline.nets import layers
from pipeline.nets.weights import (
    caffe_file,
    demo,
    keras_file,
    onnx_file,
    random,
    safetensors_file,
    torch_file,
    torchvision_entry,
)
from pipeline.nets.weights.foreign import Foreign
from pipeline.nets.weights.preprocessings import CAFFE, TORCHVISION, recognise
from pipeline.nets.weights.record import (
    Preprocessing,
    Weights,
    preprocessing_from,
    read_canonical,
    read_safetensors,
)
from pipeline.schema import read_json, sha256_file

# How each file format is read, by suffix: (path, arch) -> tensors under canonical names, not yet checked.
READERS: dict[str, Callable[[Path, str], Foreign]] = {
    ".pth": torch_file.read,
    ".pt": torch_file.read,
    ".safetensors": safetensors_file.read,
    ".onnx": onnx_file.read,
    ".caffemodel": caffe_file.read,
    ".h5": keras_file.read,
}


def resolve(params: WeightsParams, cache: Path) -> Weights:
    """The weights that `params` names, checked in full; what has to be fetched is kept under `cache`.

    Raises UserError on an unknown architecture or source, and if the weights don't fit the architecture.
    """
    layers.find(params.arch)
    kind, _, name = params.source.partition(":")
    if params.source == "demo":
        return Weights.make(params.arch, demo.read(params.arch, cache), CAFFE, demo.provenance())
    if kind == "torchvision":
        return torchvision_entry.read(params.arch, name, cache)
    if kind == "random":
        tensors = random.tensors(params.arch, random.seed_of(name))
        return Weights.make(params.arch, tensors, TORCHVISION, {"source": params.source, "init": "He normal"})
    if params.source != "file":
        raise UserError(
            f"unknown weights source {params.source!r}",
            allowed="demo, torchvision:NAME, random:SEED, or file with its path in weights.file",
            see="docs/params.md",
        )
    return from_file(Path(params.file), params.arch)


def from_file(path: Path, arch: str) -> Weights:
    """The weights in a file of any format in READERS.

    Their preprocessing is, in this order: what a JSON file beside it says (`NAME.onnx.json` beside `NAME.onnx`, with
    `preprocessing` and if known `classes`), that of known weights, the format's convention.

    Raises UserError if the file is missing or of an unknown format, if none of these tells the preprocessing, and if
    the weights don't fit the architecture.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"weights {str(path)!r} are neither a known name nor a file of a known format",
            allowed=f"demo, torchvision:NAME, random:SEED, or a file ending in {', '.join(READERS)}",
            see="docs/params.md",
        )
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    if path.suffix.lower() == ".safetensors" and read_safetensors(path)[0] is not None:
        return _of_arch(read_canonical(path), arch, path)
    sha256 = sha256_file(path)
    entry = torchvision_entry.entry_of(arch, sha256)
    if entry is not None:
        return torchvision_entry.from_file(arch, entry, path)
    foreign = reader(path, arch)
    stated, classes = _beside(path)
    preprocessing = stated or recognise(arch, foreign.tensors) or foreign.preprocessing
    if preprocessing is None:
        raise UserError(
            f"{path} doesn't say how its images are to be prepared",
            allowed=f'a file {path.name}.json beside it with {{"preprocessing": {{"channels": "rgb" or "bgr", '
            '"scale": s, "mean": [...], "std": [...]}}}}, for (x * s - mean) / std with x in 0..255',
            see="docs/params.md",
        )
    provenance: dict[str, Any] = {"source": path.name, "file_sha256": sha256}
    return Weights.make(arch, foreign.tensors, preprocessing, provenance, classes or foreign.classes)


def _of_arch(weights: Weights, arch: str, path: Path) -> Weights:
    if weights.arch != arch:
        raise UserError(f"{path} holds weights of {weights.arch}", allowed=f"weights.arch: {weights.arch}, not {arch}")
    return weights


def _beside(path: Path) -> tuple[Preprocessing | None, tuple[str, ...] | None]:
    """Preprocessing and classes as the JSON file beside a weights file states them; None where it doesn't."""
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        return None, None
    stated = read_json(sidecar)
    if not isinstance(stated, dict) or not stated.keys() <= {"preprocessing", "classes"}:
        raise UserError(f"{sidecar} has other keys", allowed="preprocessing, classes")
    classes = stated.get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
        raise UserError(f"{sidecar}: classes is not a list of names")
    preprocessing = stated.get("preprocessing")
    return (
        None if preprocessing is None else preprocessing_from(preprocessing, where=str(sidecar)),
        None if classes is None else tuple(classes),
    )
