"""Any readable weights file -> canonical weights, with an account of what was copied, what was not, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.weights.detect import detect
from pipeline.nets.weights.foreign import shapes_of
from pipeline.nets.weights.legacy import torchvision_entry
from pipeline.nets.weights.match import Entry, leading, match, num_classes_of
from pipeline.nets.weights.record import Preprocessing, Weights, read_canonical
from pipeline.nets.weights.sources import is_canonical, open_file, origin, prepared_as, require_one_part


@dataclass(frozen=True)
class Converted:
    """`preprocessing_from`: what tells how images are to be prepared, in words."""

    weights: Weights
    account: tuple[Entry, ...]
    preprocessing_from: str


def convert(
    path: Path,
    *,
    arch: str | None = None,
    deploy: Path | None = None,
    preprocessing: Preprocessing | None = None,
    renew: int | None = None,
    part: str | None = None,
) -> Converted:
    """The weights in a file of any format in WEIGHT_READERS.

    Without `arch` the architecture is that of the layers' shapes. Layers that don't fit it are left out with all
    after them; with a seed in `renew` they become random ones, and the network is whole. `deploy` describes a Caffe
    network. `preprocessing` overrides what the file or its format says. `part` chooses one of several sets of weights.

    Raises UserError if the file can't be read, no layer fits, several sets of weights do, or nothing tells the
    preprocessing.
    """
    if part is None and is_canonical(path):
        weights = read_canonical(path)
        if arch not in (None, weights.arch):
            raise UserError(f"{path} holds weights of {weights.arch}", allowed=f"--arch {weights.arch}")
        return _converted(path, weights, preprocessing, renew)
    content = open_file(path, deploy, part)
    arch = facts.find(arch).name if arch is not None else detect(content, str(path))
    sha256 = disk.sha256(path)
    entry = torchvision_entry.entry_of(arch, sha256)
    if entry is not None and part is None:
        return _converted(path, torchvision_entry.from_file(arch, entry, path), preprocessing, renew)
    require_one_part(content, arch, path)
    tensors = content.named(arch)
    prepared = prepared_as(path, arch, tensors, content.preprocessing)
    kept, account = _fit(path, arch, tensors, renew)
    account += tuple(Entry(name, "unused", why) for name, why in content.aside(arch).items())
    weights = Weights.make(
        arch,
        kept,
        preprocessing or prepared.require(path),
        _provenance(path, account) | {"file_sha256": sha256} | origin(content, arch),
        prepared.classes if "fc8.weight" in kept else None,
    )
    return Converted(weights, account, "the caller" if preprocessing else prepared.known_by)


def _converted(path: Path, weights: Weights, preprocessing: Preprocessing | None, renew: int | None) -> Converted:
    """Weights that are known to be whole as far as they go."""
    kept, account = _fit(path, weights.arch, weights.tensors, renew)
    provenance = dict(weights.provenance)
    if renew is not None:
        provenance |= _provenance(path, account)
    made = Weights.make(weights.arch, kept, preprocessing or weights.preprocessing, provenance, weights.classes)
    return Converted(made, account, "the caller" if preprocessing else "the file")


def _fit(
    path: Path, arch: str, tensors: Mapping[str, Tensor], renew: int | None
) -> tuple[dict[str, Tensor], tuple[Entry, ...]]:
    classes = num_classes_of(shapes_of(tensors))
    kept, account = leading(arch, tensors, num_classes=classes)
    if renew is not None:
        kept, account = match(arch, tensors, num_classes=classes, seed=renew)
    copied = [entry for entry in account if entry.outcome == "copied"]
    if not copied:
        first = account[0]
        raise UserError(f"no weights of {path} fit {arch}: {first.name}: {first.why}", allowed="another --arch")
    return kept, account


def _provenance(path: Path, account: tuple[Entry, ...]) -> dict[str, Any]:
    """Where the weights come from, and which layers are random."""
    renewed = [entry.name for entry in account if entry.outcome == "renewed"]
    return {"source": path.name} | ({"renewed": renewed} if renewed else {})
