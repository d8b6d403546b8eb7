"""The `weights` section of params.yaml -> weights, whatever their format was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.config import WeightsParams
from pipeline.nets import backbone
from pipeline.nets.mistaken import require_not_mistaken
from pipeline.nets.vgg import facts
from pipeline.nets.weights import demo, random
from pipeline.nets.weights.detect import detect
from pipeline.nets.weights.foreign import WHOLE, Content
from pipeline.nets.weights.legacy import (
    caffe_file,
    keras_file,
    neon_file,
    onnx_file,
    safetensors_file,
    torch_file,
    torchvision_entry,
)
from pipeline.nets.weights.match import fitting, num_classes_of
from pipeline.nets.weights.preprocessings import CAFFE, TORCHVISION, recognise
from pipeline.nets.weights.record import (
    Preprocessing,
    Weights,
    preprocessing_from,
    read_about,
    read_canonical,
)
from pipeline.nets.weights.state_dict import StateDict

# How each file format is read, by how the file's name ends.
WEIGHT_READERS: dict[str, Callable[[Path], Content]] = {
    ".pth": torch_file.read,
    ".pt": torch_file.read,
    ".bin": torch_file.read,
    ".ckpt": torch_file.read,
    ".pth.tar": torch_file.read,
    ".safetensors": safetensors_file.read,
    ".onnx": onnx_file.read,
    ".caffemodel": caffe_file.read,
    ".h5": keras_file.read,
    ".keras": keras_file.read,
    ".p": neon_file.read,
    ".prm": neon_file.read,
}


def resolve(params: WeightsParams, cache: Path) -> Weights:
    """The weights that `params` names, checked in full; what has to be fetched is kept under `cache`.

    Raises UserError on an unknown architecture or source, and if the weights don't fit the architecture.
    """
    return backbone.family(params.arch).resolve(params, cache)


def of_vgg(params: WeightsParams, cache: Path) -> Weights:
    """`resolve` for VGG and AlexNet."""
    facts.find(params.arch)
    kind, _, name = params.source.partition(":")
    if params.source == "demo":
        return Weights.make(params.arch, demo.read(params.arch, cache), CAFFE, demo.provenance())
    if kind in ("torchvision", "pretrained"):
        name = name or torchvision_entry.DEFAULT
        return torchvision_entry.read(params.arch, name, cache)
    if kind == "random":
        tensors = random.tensors(params.arch, random.seed_of(name))
        return Weights.make(params.arch, tensors, TORCHVISION, {"source": params.source, "init": "He normal"})
    if params.source != "file":
        raise UserError(
            f"unknown weights source {params.source!r}",
            allowed="demo, pretrained, torchvision:NAME, random:SEED, or file with its path in weights.file",
            see="docs/params.md",
        )
    return from_file(Path(params.file), params.arch)


def from_file(path: Path, arch: str) -> Weights:
    """The weights in a file of any format in WEIGHT_READERS.

    Raises UserError if the file is missing or of an unknown format, if nothing tells its preprocessing, and if the
    weights don't fit the architecture.
    """
    if is_canonical(path):
        return _of_arch(read_canonical(path), arch, path)
    sha256 = disk.sha256(path)
    entry = torchvision_entry.entry_of(arch, sha256)
    if entry is not None:
        return torchvision_entry.from_file(arch, entry, path)
    content = open_file(path)
    require_one_part(content, arch, path)
    tensors = content.named(arch)
    prepared = prepared_as(path, arch, tensors, content.preprocessing)
    provenance = {"source": path.name, "file_sha256": sha256} | origin(content, arch)
    try:
        return Weights.make(arch, tensors, prepared.require(path), provenance, prepared.classes)
    except UserError as e:
        _require_arch(content, arch, path)
        allowed = e.allowed or f"what `cnncodes weights convert {path}` makes of it, with an account of what fits"
        raise UserError(f"{path}: {e.what}" if not e.allowed else e.what, allowed=allowed, see=e.see) from None


def arch_of(path: Path) -> str:
    """`detect` of a file of any format. Raises UserError as it does, and if the file can't be read."""
    return detect(open_file(path), str(path))


def open_file(path: Path, deploy: Path | None = None, part: str | None = None) -> Content:
    """What a file of any format in WEIGHT_READERS holds; `deploy` describes a Caffe network, `part` is one of the
    `parts` of what it holds.

    Raises UserError if the file is missing, of an unknown format, or broken.
    """
    reader = reader_of(path)
    if part is not None:
        content = reader(path)
        if not isinstance(content, StateDict):
            raise UserError(f"{path} has one set of weights, so none to choose", allowed="no --part")
        return replace(content, part=part)
    if deploy is None:
        return reader(path)
    if reader is not caffe_file.read:
        raise UserError(f"{deploy} can't describe {path}", allowed="a deploy.prototxt beside a .caffemodel")
    return caffe_file.read(path, deploy)


def reader_of(path: Path) -> Callable[[Path], Content]:
    """Raises UserError if the file is missing, its name ends as none of WEIGHT_READERS, or it is plainly no weights."""
    reader = next((WEIGHT_READERS[end] for end in WEIGHT_READERS if path.name.lower().endswith(end)), None)
    if reader is None:
        raise UserError(
            f"weights {str(path)!r} are neither a known name nor a file of a known format",
            allowed=f"demo, torchvision:NAME, random:SEED, or a file ending in {', '.join(WEIGHT_READERS)}",
            see="docs/params.md",
        )
    if not path.is_file():
        raise UserError(
            f"no weights file at {path}",
            allowed=f"a file that is there, ending in {', '.join(WEIGHT_READERS)}",
            see="docs/params.md",
        )
    require_not_mistaken(path)
    return reader


def is_canonical(path: Path) -> bool:
    """Whether this is a file that `write_canonical` wrote. Raises UserError as `reader_of` does."""
    return reader_of(path) is safetensors_file.read and read_about(path) is not None


def require_one_part(content: Content, arch: str, path: Path) -> None:
    """Raises UserError if a file holds several sets of weights that fit alike: the user has to say which."""
    parts = content.parts(arch)
    if len(parts) > 1:
        raise UserError(
            f"{path} holds {len(parts)} sets of weights of {arch}: {', '.join(parts)}",
            allowed=f"`cnncodes weights convert {path} --part {parts[0]}` (or another), and what that writes",
        )


def origin(content: Content, arch: str) -> dict[str, Any]:
    """For provenance: where in a file its weights lie, and what it holds besides. Empty if they are all of it."""
    (part, *_), aside = content.parts(arch), content.aside(arch)
    return ({} if part == WHOLE else {"part": part}) | ({"not_used": aside} if aside else {})


@dataclass(frozen=True)
class Prepared:
    """How a file's images are to be prepared, how that is known, and its classes where known."""

    preprocessing: Preprocessing | None
    known_by: str
    classes: tuple[str, ...] | None

    def require(self, path: Path) -> Preprocessing:
        """The preprocessing. Raises UserError if nothing tells it."""
        if self.preprocessing is None:
            raise UserError(
                f"{path} doesn't say how its images are to be prepared",
                allowed=f'a file {path.name}.json beside it with {{"preprocessing": {{"channels": "rgb" or "bgr", '
                '"scale": s, "mean": [...], "std": [...]}}}}, for (x * s - mean) / std with x in 0..255',
                see="docs/params.md",
            )
        return self.preprocessing


def prepared_as(
    path: Path, arch: str | None, tensors: Mapping[str, Tensor], by_format: Preprocessing | None
) -> Prepared:
    """In this order: what a JSON file beside it says (`NAME.onnx.json` beside `NAME.onnx`, with `preprocessing` and if
    known `classes`), that of known weights, the format's convention. Raises UserError if the JSON file is wrong.
    """
    stated, classes = beside(path)
    for preprocessing, known_by in (
        (stated, f"{path.name}.json"),
        (recognise(arch, tensors), "the weights, which are Oxford's VGG-16"),
        (by_format, "the format's convention"),
    ):
        if preprocessing is not None:
            return Prepared(preprocessing, known_by, classes)
    return Prepared(None, "nothing", classes)


def _require_arch(content: Content, arch: str, path: Path) -> None:
    """Raises UserError if more layers are of another architecture, which says more than a list of what doesn't fit."""
    try:
        found = detect(content, str(path))
    except UserError:
        return
    fits = []
    for one in (arch, found):
        shapes = content.shapes(one)
        fits.append(fitting(one, shapes, num_classes=num_classes_of(shapes))[0])
    if fits[0] < fits[1]:
        raise UserError(f"{path} holds weights of {found} by its layers", allowed=f"weights.arch: {found}, not {arch}")


def _of_arch(weights: Weights, arch: str, path: Path) -> Weights:
    if weights.arch != arch:
        raise UserError(f"{path} holds weights of {weights.arch}", allowed=f"weights.arch: {weights.arch}, not {arch}")
    return weights


def beside(path: Path) -> tuple[Preprocessing | None, tuple[str, ...] | None]:
    """Preprocessing and classes as the JSON file beside a weights file states them; None where it doesn't."""
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        return None, None
    stated = json_files.read(sidecar)
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
