"""What a weights file holds, and how two differ, as plain values for a table or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.weights.detect import detect
from pipeline.nets.weights.foreign import WHOLE, Content, shapes_of
from pipeline.nets.weights.match import leading, num_classes_of
from pipeline.nets.weights.record import (
    Preprocessing,
    plain_preprocessing,
    preprocessing_from,
    read_canonical,
    read_safetensors,
)
from pipeline.nets.weights.sources import is_canonical, open_file, prepared_as, reader_of


@dataclass(frozen=True)
class Opened:
    """A file of any format, read but not checked. `arch` is None where it is not known, for the reason in
    `arch_known_by`. `parts` and `aside` as of `foreign.Content`."""

    path: Path
    format: str
    arch: str | None
    arch_known_by: str
    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing | None
    preprocessing_known_by: str
    classes: tuple[str, ...] | None
    about: Mapping[str, Any]
    parts: tuple[str, ...] = (WHOLE,)
    aside: Mapping[str, str] = field(default_factory=dict)


def opened(path: Path, *, arch: str | None = None, deploy: Path | None = None) -> Opened:
    """The file's tensors under canonical names if its architecture is known, else under its own.

    Raises UserError if the file can't be read, or `arch` is unknown.
    """
    if arch is not None:
        facts.find(arch)
    if is_canonical(path):
        return _canonical(path)
    content = open_file(path, deploy)
    known_by = "given"
    if arch is None:
        arch, known_by = _detected(content, path)
    tensors = content.own() if arch is None else content.named(arch)
    prepared = prepared_as(path, arch, tensors, content.preprocessing)
    kind = reader_of(path).__module__.rpartition(".")[2].removesuffix("_file")
    parts, aside = ((WHOLE,), {}) if arch is None else (content.parts(arch), content.aside(arch))
    preprocessing, prepared_by = prepared.preprocessing, prepared.known_by
    return Opened(path, kind, arch, known_by, tensors, preprocessing, prepared_by, prepared.classes, {}, parts, aside)


def inspect(path: Path, *, arch: str | None = None, deploy: Path | None = None) -> dict[str, Any]:
    """Format, architecture, layers with shapes, dtypes, ranges and broken values, preprocessing, and provenance.

    `problems` says what keeps the file from being used as it is. Raises UserError if it can't be read.
    """
    found = opened(path, arch=arch, deploy=deploy)
    described: dict[str, Any] = {
        "path": str(path),
        "format": found.format,
        "bytes": path.stat().st_size,
        "file_sha256": disk.sha256(path),
        "arch": found.arch,
        "arch_known_by": found.arch_known_by,
        "deepest": None,
        "part": None if found.parts[0] == WHOLE else found.parts[0],
        "not_used": dict(found.aside),
        "values": sum(tensor.numel() for tensor in found.tensors.values()),
        "preprocessing": None if found.preprocessing is None else plain_preprocessing(found.preprocessing),
        "preprocessing_known_by": found.preprocessing_known_by,
        "classes": None if found.classes is None else list(found.classes),
        "provenance": found.about.get("provenance"),
        "sha256": found.about.get("sha256"),
        "tensors": [_tensor(name, tensor) for name, tensor in found.tensors.items()],
        "problems": _problems(found),
    }
    if found.arch is not None and facts.is_known(found.arch):
        kept, _ = _leading(found.arch, found.tensors)
        described["deepest"] = deepest(kept)
    return described


def diff(a: Opened, b: Opened) -> dict[str, Any]:
    """What two files differ in: each tensor by name, architecture, preprocessing, classes; `same` if in nothing.

    A tensor's `status` is same, different, shape, only in a, or only in b; `max_abs` is the largest difference of two
    values, `relative` the norm of the difference by that of a's tensor. Values are compared as float32.
    """
    tensors = [_compared(name, a.tensors.get(name), b.tensors.get(name)) for name in {**a.tensors, **b.tensors}]
    others: dict[str, list[Any]] = {
        "arch": [a.arch, b.arch],
        "preprocessing": [None if p is None else plain_preprocessing(p) for p in (a.preprocessing, b.preprocessing)],
        "classes": [None if c is None else list(c) for c in (a.classes, b.classes)],
    }
    differing = {what: pair for what, pair in others.items() if pair[0] != pair[1]}
    return {
        "a": str(a.path),
        "b": str(b.path),
        "same": not differing and all(tensor["status"] == "same" for tensor in tensors),
        "differing": differing,
        "tensors": tensors,
    }


def deepest(tensors: Mapping[str, Tensor]) -> str | None:
    """The last layer of canonical tensors in the network's order, None without any."""
    return list(tensors)[-1].partition(".")[0].replace("bn", "conv") if tensors else None


def _canonical(path: Path) -> Opened:
    about, tensors = read_safetensors(path)
    if about is None or "arch" not in about:
        raise UserError(f"{path} holds no canonical weights", allowed="a file that `cnncodes weights convert` wrote")
    arch = about["arch"]
    stated = preprocessing_from(about.get("preprocessing"), where=f"{path}: preprocessing")
    classes = about.get("classes")
    names = tuple(map(str, classes)) if isinstance(classes, list) else None
    known = arch if isinstance(arch, str) else None
    return Opened(path, "canonical safetensors", known, "the file", tensors, stated, "the file", names, about)


def _detected(content: Content, path: Path) -> tuple[str | None, str]:
    try:
        return detect(content, str(path)), "the shapes of its layers"
    except UserError as e:
        return None, e.what


def _leading(arch: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    return leading(arch, tensors, num_classes=num_classes_of(shapes_of(tensors)))


def _problems(found: Opened) -> list[str]:
    """What keeps the file from being used as it is, in words."""
    problems = []
    if len(found.parts) > 1:
        sets = f"{len(found.parts)} sets of weights fit alike: {', '.join(found.parts)}"
        problems.append(f"{sets}; `weights convert --part` takes one")
    if found.arch is None:
        problems.append(found.arch_known_by)
    elif found.format == "canonical safetensors":
        try:
            read_canonical(found.path)
        except UserError as e:
            problems.append(str(e))
    else:
        kept, account = _leading(found.arch, found.tensors)
        held = [name for name in found.tensors if name not in kept]
        problems += [f"{e.name}: {e.why}" for e in account if e.outcome == "unused"]
        problems += [
            f"{e.name}: {e.why}"
            for e in account
            if e.outcome == "left out" and any(name.startswith(f"{e.name}.") for name in held)
        ]
    if found.preprocessing is None:
        problems.append("nothing says how images are to be prepared")
    broken = [name for name, tensor in found.tensors.items() if not bool(torch.isfinite(tensor).all())]
    return problems + ([f"NaN or infinity in {', '.join(broken)}"] if broken else [])


def _tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    """Minimum, maximum, mean and standard deviation are of the finite values, None without any."""
    finite = torch.isfinite(tensor)
    whole = bool(finite.all())
    values = (tensor if whole else tensor[finite]).float()
    return {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "min": float(values.min()) if values.numel() else None,
        "max": float(values.max()) if values.numel() else None,
        "mean": float(values.mean()) if values.numel() else None,
        "std": float(values.std(correction=0)) if values.numel() else None,
        "non_finite": 0 if whole else int((~finite).sum()),
    }


def _compared(name: str, a: Tensor | None, b: Tensor | None) -> dict[str, Any]:
    result: dict[str, Any] = {
        "name": name,
        "shapes": [None if t is None else list(t.shape) for t in (a, b)],
        "max_abs": None,
        "relative": None,
    }
    if a is None or b is None:
        return result | {"status": "only in b" if a is None else "only in a"}
    if a.shape != b.shape:
        return result | {"status": "shape"}
    x, y = a.float(), b.float()
    # Equal infinities, and NaN in the same places, are the same.
    gap = torch.where((x == y) | (x.isnan() & y.isnan()), torch.zeros(()), x - y)
    if not bool(gap.count_nonzero()):
        return result | {"status": "same", "max_abs": 0.0, "relative": 0.0}
    if not bool(gap.isfinite().all()):
        return result | {"status": "different"}
    norm = float(torch.linalg.vector_norm(x))
    relative = float(torch.linalg.vector_norm(gap)) / norm if norm > 0 else None
    return result | {"status": "different", "max_abs": float(gap.abs().max()), "relative": relative}
