"""Weights of a library's network: its own initial values, a file, or what the library has pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.config import WeightsParams
from pipeline.nets.weights import random
from pipeline.nets.weights.legacy import safetensors_file, torch_file
from pipeline.nets.weights.record import Preprocessing, Weights, preprocessing_from, read_canonical
from pipeline.nets.weights.sources import beside, is_canonical, reader_of
from pipeline.nets.weights.state_dict import splits

if TYPE_CHECKING:
    from pipeline.nets.modules.backbone import Architecture

_SOURCES = "pretrained, pretrained:TAG, random:SEED, or file with its path in weights.file"
_LISTED = 8


def resolve(about: Architecture, params: WeightsParams, cache: Path) -> Weights:
    """The weights that `params` names, checked in full. Raises UserError as `sources.resolve` does."""
    kind, _, name = params.source.partition(":")
    if kind == "random":
        return _random(about, random.seed_of(name))
    demo = about.library.demo(about.name, cache) if params.source == "demo" else None
    if kind == "pretrained" or demo is not None:
        loaded = demo or about.library.load(about.name, name, cache)
        codes = {"crop": loaded.prepared.size, "scales": [loaded.prepared.scale]}
        provenance = {"source": params.source, "codes": codes} | loaded.provenance
        tensors = _known(about, loaded.tensors)
        classes = loaded.prepared.classes
        return Weights.make(about.arch, tensors, loaded.prepared.preprocessing, provenance, classes)
    if params.source == "demo":
        raise UserError(f"there are no demo weights of {about.arch}", allowed=_SOURCES, see="docs/params.md")
    if params.source != "file":
        raise UserError(f"unknown weights source {params.source!r}", allowed=_SOURCES, see="docs/params.md")
    return from_file(about, Path(params.file))


def from_file(about: Architecture, path: Path) -> Weights:
    """The weights in a .pth or .safetensors file, a canonical one too. No code in it is run.

    Images are prepared as a JSON file beside it says, else as the library does for its own weights. Raises UserError
    if the file is missing or of another format, or the weights don't fit.
    """
    if is_canonical(path):
        weights = read_canonical(path)
        if weights.arch != about.arch:
            raise UserError(f"{path} holds weights of {weights.arch}", allowed=f"weights.arch: {weights.arch}")
        return weights
    reader = reader_of(path)
    if reader not in (torch_file.read, safetensors_file.read):
        raise UserError(
            f"{path} is of a format that is read for the oldest family alone",
            allowed=f"a .pth or .safetensors file of {about.arch}",
        )
    tensors = reader(path).own()
    stated, classes = beside(path)
    provenance: dict[str, Any] = {
        "source": path.name,
        "file_sha256": disk.sha256(path),
        "codes": dict(about.codes),
    }
    preprocessing = stated or own_preprocessing(about)
    try:
        return Weights.make(about.arch, _named(about, tensors), preprocessing, provenance, classes)
    except UserError as e:
        raise UserError(f"{path}: {e.what}", allowed=e.allowed, see=e.see) from None


def own_preprocessing(about: Architecture) -> Preprocessing:
    """As the library prepares images for its own weights of this network."""
    return preprocessing_from(about.facts.preprocessing, where=about.arch)


def check(about: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network under its own names, in the order in which they are needed, as contiguous float32.

    Weights may stop at any depth, without holes before it. Raises one UserError that names every tensor that is
    missing, unexpected, of the wrong shape or dtype, or holds NaN, infinity or a negative variance.
    """
    wanted = about.tensor_shapes(about.num_classes({name: t.shape for name, t in tensors.items()}))
    deepest = max((i for i, name in enumerate(wanted) if name in tensors), default=len(wanted) - 1)
    whole: dict[str, Tensor] = {}
    problems: dict[str, list[str]] = {}
    for name in list(wanted)[: deepest + 1]:
        if name not in tensors:
            problems.setdefault("missing", []).append(name)
        elif tuple(tensors[name].shape) != wanted[name]:
            came = tuple(tensors[name].shape)
            problems.setdefault("of the wrong shape", []).append(f"{name} {came}, not {wanted[name]}")
        elif not tensors[name].is_floating_point():
            problems.setdefault("not floating point", []).append(f"{name} {tensors[name].dtype}")
        else:
            whole[name] = tensors[name].detach().to("cpu", torch.float32).contiguous()
            if not bool(torch.isfinite(whole[name]).all()):
                problems.setdefault("holding NaN or infinity", []).append(name)
            elif name.endswith("running_var") and bool((whole[name] < 0).any()):
                problems.setdefault("holding a negative variance", []).append(name)
    if unexpected := sorted(set(tensors) - set(wanted)):
        problems["unexpected"] = unexpected
    if problems:
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items())
        raise UserError(f"these are not whole weights of {about.arch}: {listed}", see="docs/params.md")
    return whole


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _random(about: Architecture, seed: int) -> Weights:
    """The library's own initial values, drawn by torch from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = about.library.build(about.name)
    provenance = {"source": f"random:{seed}", "init": f"{about.library.name}'s own", "codes": dict(about.codes)}
    return Weights.make(about.arch, _known(about, module.state_dict()), own_preprocessing(about), provenance)


def _known(about: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what is computed when the module is made, such as counts of batches and indices of positions."""
    return {name: t for name, t in tensors.items() if t.is_floating_point() or name in about.tensors()}


def _named(about: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those under the prefix, such as `state_dict.module`, below which most of the network's names are found."""
    ours = set(about.tensors())
    by_prefix: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for prefix, rest in splits(name):
            by_prefix.setdefault(prefix, {})[rest] = tensor
    if not by_prefix:
        return {}
    best = max(by_prefix, key=lambda prefix: len(ours & by_prefix[prefix].keys()))
    return _known(about, by_prefix[best])
