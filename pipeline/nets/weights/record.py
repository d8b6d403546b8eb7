"""Weights as one record with their preprocessing, and the one file format that extraction reads.

The file is safetensors. Its metadata has a single key, `cnncodes`, with canonical JSON: safetensors writes several keys
in random order, which would give equal weights different bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.base import disk, held, json_files, plain_json
from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.nets import backbone

METADATA_KEY = "cnncodes"
Positive = Annotated[float, Field(gt=0)]
T = TypeVar("T")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Preprocessing:
    """How weights want their images: y = (x * scale - mean) / std, x in 0..255, channels in the order of `channels`.

    `resampling` and `geometry`: how an image becomes the network's input, see `data.views`. What always held is left
    out where this is written down.
    """

    channels: Literal["rgb", "bgr"]
    scale: Positive
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    resampling: Literal["bilinear", "bicubic", "lanczos", "nearest"] = "bilinear"
    geometry: Literal["rounded", "torchvision"] = "rounded"


@dataclass(frozen=True)
class Weights:
    """Trained tensors and all that is needed to use them. Made by `make`, which checks them.

    `tensors`: canonical name -> contiguous float32, in the network's order. `provenance`: plain values, where they come
    from. `sha256`: of everything that changes a layer's value, see `digest`. `classes`: of fc8's rows, where known.
    """

    arch: str
    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]
    sha256: str
    classes: tuple[str, ...] | None = None

    @classmethod
    def make(
        cls,
        arch: str,
        tensors: Mapping[str, Tensor],
        preprocessing: Preprocessing,
        provenance: Mapping[str, Any],
        classes: tuple[str, ...] | None = None,
    ) -> Weights:
        """Weights from canonical names after the full check. Raises UserError with all that is wrong."""
        whole = backbone.family(arch).check(arch, tensors)
        if classes is not None:
            about = backbone.find(arch)
            held = set(about.tensors(about.logits)) <= whole.keys()
            rows = about.num_classes({name: t.shape for name, t in whole.items()}) if held else 0
            if len(classes) != rows:
                raise UserError(f"the weights name {len(classes)} classes, {about.logits} has {rows or 'no'} rows")
        return cls(arch, whole, preprocessing, provenance, digest(arch, whole, preprocessing), classes)

    @property
    def num_classes(self) -> int:
        """That the network tells apart; its own number if the weights stop before its classifier."""
        return backbone.find(self.arch).num_classes({name: t.shape for name, t in self.tensors.items()})


def digest(arch: str, tensors: Mapping[str, Tensor], preprocessing: Preprocessing) -> str:
    """64 hex digits: sha256 of the canonical JSON of architecture, preprocessing, names and shapes, a zero byte, then
    every tensor's little-endian float32 bytes, all in the network's order.

    Where the weights came from is not a part of it: the same weights from two sources give the same codes.
    """
    head = {
        "arch": arch,
        "preprocessing": plain_preprocessing(preprocessing),
        "tensors": [[name, list(tensor.shape)] for name, tensor in tensors.items()],
    }
    sha = hashlib.sha256(json_files.canonical(head).encode() + b"\0")
    for tensor in tensors.values():
        sha.update(tensor.numpy().astype("<f4", copy=False).data)
    return sha.hexdigest()


def held_layers(weights: Weights) -> tuple[str, ...]:
    """The layers that these weights can compute, in order."""
    return tuple(backbone.held(backbone.find(weights.arch), weights.tensors))


def require_held(weights: Weights, layer: str) -> str:
    """The layer's name if the weights can compute it.

    Raises UserError on a wrong name, and on a layer that they stop before, saying which weights have it.
    """
    backbone.find(weights.arch).require(layer)
    held = held_layers(weights)
    if layer not in held:
        source = weights.provenance.get("source", "these weights")
        raise UserError(
            f"the weights {source} of {weights.arch} stop at {held[-1]}, so they have no {layer}",
            allowed=f"layers up to {held[-1]}, or weights that hold {layer}: torchvision:IMAGENET1K_V1, random:SEED, "
            "or a file of the whole network",
            see="docs/params.md",
        )
    return layer


def write_canonical(weights: Weights, path: str | Path) -> None:
    """Writes the one format that extraction reads: equal weights give equal bytes."""
    about = {
        "version": VERSIONS["weights"],
        "arch": weights.arch,
        "preprocessing": plain_preprocessing(weights.preprocessing),
        "provenance": dict(weights.provenance),
        "sha256": weights.sha256,
        "classes": None if weights.classes is None else list(weights.classes),
    }
    with disk.atomic_path(path) as tmp:
        mode = tmp.stat().st_mode
        held.clear_old(tmp.parent, ".tmp??????")  # of save_file, which renames a file of its own
        save_file(dict(weights.tensors), tmp, metadata={METADATA_KEY: json_files.canonical(about)})
        tmp.chmod(mode)  # save_file puts a file of its own there, which only its owner may read


def read_canonical(path: str | Path) -> Weights:
    """The weights in a file that `write_canonical` wrote, checked in full.

    Raises UserError if the file is missing, cut short, of another version, or its content doesn't match its sha256.
    """
    path = Path(path)
    metadata, tensors = read_safetensors(path)
    if metadata is None:
        raise UserError(f"{path} is not a canonical weights file: it says nothing of its architecture or preprocessing")
    if metadata.get("version") != VERSIONS["weights"]:
        raise UserError(
            f"{path} has version {metadata.get('version')!r}",
            allowed=str(VERSIONS["weights"]),
            see="`dvc repro weights`, which makes it again",
        )
    about = _validated(_ABOUT, metadata, f"{path}: metadata")
    weights = Weights.make(about.arch, tensors, about.preprocessing, about.provenance, about.classes)
    if weights.sha256 != about.sha256:
        raise UserError(f"{path} is damaged: its content has sha256 {weights.sha256}, it states {about.sha256}")
    return weights


def read_safetensors(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """What a safetensors file says of itself, if it is ours, and its tensors by name.

    Raises UserError if it is missing, cut short, or not safetensors.
    """
    about = read_about(path)
    with _opened(path) as f:
        return about, {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (a safetensors handle is no dict)


def read_about(path: Path) -> dict[str, Any] | None:
    """What a safetensors file says of itself, None if it is not ours. Raises UserError as `read_safetensors` does."""
    with _opened(path) as f:
        metadata = f.metadata() or {}
    try:
        about = plain_json.loads(metadata.get(METADATA_KEY, "null"))
    except ValueError as e:
        raise UserError(f"{path} has metadata that is not JSON ({e})") from None
    if about is not None and not isinstance(about, dict):
        raise UserError(f"{path} has metadata that is not an object")
    return about


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"no weights file at {path}", allowed="a canonical .safetensors file", see="docs/params.md")
    try:
        with safe_open(path, framework="pt") as f:
            yield f
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is not a whole safetensors file ({e}); it may have been cut short") from None


def preprocessing_from(value: Any, *, where: str) -> Preprocessing:
    """A Preprocessing from plain values. Raises UserError naming what is missing, unknown or of the wrong type."""
    return _validated(_PREPROCESSING, value, where)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _About:
    """What a canonical file's metadata holds."""

    version: int
    arch: str
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    sha256: str
    classes: tuple[str, ...] | None


_PREPROCESSING = TypeAdapter(Preprocessing)
_ABOUT = TypeAdapter(_About)
_ALWAYS_HELD = {"resampling": "bilinear", "geometry": "rounded"}


def _validated(adapter: TypeAdapter[T], value: Any, where: str) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as e:
        problems = " | ".join(f"{'.'.join(map(str, err['loc'])) or '(value)'}: {err['msg']}" for err in e.errors())
        raise UserError(
            f"{where} has {counted(e.error_count(), 'problem')}: {problems}", see="docs/params.md"
        ) from None


def plain_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """As plain values, without what always held, so that weights that are older than it keep their digests."""
    dumped: dict[str, Any] = _PREPROCESSING.dump_python(preprocessing, mode="json")
    return {key: value for key, value in dumped.items() if _ALWAYS_HELD.get(key) != value}
