"""A tuned network is a network: its codes by the same calls as any other's, beside those of the network it came from.

Both see the same images in the view that the network was tuned on, and the same heads and hashes are fitted to both.
Only the first split is used, the one whose training images the network was tuned on: to it, some test images of every
other split are training images, so that any figure on those would flatter it.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base import json_files
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.base.skipped import Skipped, reason_in
from pipeline.codes import extract
from pipeline.codes.plan import check
from pipeline.codes.weights_header import WeightsHeader, stated
from pipeline.config import CodesParams, HashSpec, HeadsParams, RetrievalParams, TunedParams, validate
from pipeline.data.manifest import Manifest
from pipeline.heads.run import fit_head
from pipeline.retrieval.run import run_spec

log = logging.getLogger(__name__)

# What the strategy's folder holds it as, see `strategies.saved`.
MODEL = "model.safetensors"
FOLDERS = ("codes", "heads", "retrieval")
SOURCE = "source"
# Figures of a hash that metrics.json repeats.
_OF_A_HASH = ("map_at_k", "precision_at_1", "precision_at_k", "k")


@dataclass(frozen=True)
class Protocol:
    """What is asked for, and how codes, heads and hashes are made; the view of `codes` gives way to the network's."""

    params: TunedParams
    codes: CodesParams
    heads: HeadsParams
    retrieval: RetrievalParams


@dataclass
class _Measured:
    """Of one network: `accuracy` by codes and head, `hashes` by name; `left_out`: codes or hash -> why, in words."""

    about: dict[str, Any]
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    hashes: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def measure(
    tuned: Path,
    source: Path,
    manifest: Manifest,
    protocol: Protocol,
    out: Path,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Fills `out` with FOLDERS of the tuned network and, below source/, of its source, and writes metrics.json.

    `tuned`: the folder of the strategy; `source`: the weights that it started from. Codes that one of the networks
    can't make, and hashes that don't fit, are left out in words; so is everything without labels, or if the strategy
    made no network with layers of `nets`. Returns what metrics.json holds. Raises UserError on bad settings.
    """
    params = protocol.params
    for folder in (*FOLDERS, SOURCE):
        shutil.rmtree(out / folder, ignore_errors=True)
    own = stated(tuned / MODEL)
    if not manifest.classes:
        return _write_skipped(out, params, "no labels")
    if own is None or not own.codes:
        return _write_skipped(out, params, f"strategy {params.strategy} left no tuned network of known layers")
    # Repeats beyond the first would let a head be tested on images that the network was tuned on.
    first = dataclasses.replace(manifest, splits=manifest.splits[:1])
    codes = validate(
        CodesParams,
        protocol.codes.model_dump() | dict(own.codes) | {"layers": params.layers, "batch_size": params.batch_size},
        where="codes",
    )
    asked = dataclasses.replace(protocol, codes=codes)
    sides = {SOURCE: (source, out / SOURCE), "tuned": (tuned / MODEL, out)}
    found = {
        side: _measure(WeightsHeader.of(weights), first, asked, folder, cache=cache)
        for side, (weights, folder) in sides.items()
    }
    record = {
        "strategy": params.strategy,
        "split": 0,
        **{f"n_{split}": len(first.rows(split)) for split in ("train", "val", "test")},
        "view": dict(own.codes),
        "networks": {side: one.about for side, one in found.items()},
        "accuracy": _beside({side: one.accuracy for side, one in found.items()}),
        "hashes": _beside({side: one.hashes for side, one in found.items()}),
        "left_out": {side: one.left_out for side, one in found.items()},
    }
    json_files.write_last(out / "metrics.json", record)
    return record


def _measure(
    weights: WeightsHeader, manifest: Manifest, asked: Protocol, out: Path, *, cache: Path | None
) -> _Measured:
    measured = _Measured({"arch": weights.arch, "sha256": weights.sha256})
    kept, measured.left_out = _layers(weights, asked.codes)
    params = asked.codes.model_copy(update={"layers": kept})
    codes = extract(manifest, weights.source, params, out / "codes", cache=cache) if kept else {}
    for layer, one in codes.items():
        for head in asked.params.heads:
            record = fit_head(one, manifest, asked.heads, head, out / "heads" / f"{layer}-{head}")
            measured.accuracy.setdefault(layer, {})[head] = record["mean"]["accuracy"]
    # Exact search alone: how an index approximates it is the retrieval stage's to measure.
    exact = asked.retrieval.model_copy(update={"approximate": {}})
    for name in asked.params.hashes:
        spec = HashSpec.parse(name)
        if spec.codes.name not in codes:
            continue
        folder = out / "retrieval" / name
        # In the cache, where what a killed training goes on from outlives the stage's results, which DVC removes.
        run_spec(spec, out / "codes", manifest, exact, folder, cache=cache or cache_root())
        record = json_files.read(folder / "metrics.json")
        if why := reason_in(record):
            measured.left_out[name] = why
        else:
            measured.hashes[name] = {key: record[key] for key in _OF_A_HASH}
    for name in FOLDERS:
        (out / name).mkdir(parents=True, exist_ok=True)
    return measured


def _layers(weights: WeightsHeader, params: CodesParams) -> tuple[list[str], dict[str, str]]:
    """The specs that the network has and that fit its images; and the others, with the reason."""
    kept: list[str] = []
    left_out: dict[str, str] = {}
    for spec in params.layers:
        try:
            check(weights, params.model_copy(update={"layers": [spec]}))
            kept.append(spec)
        except UserError as e:
            left_out[spec] = e.what
            log.info("%s of %s: left out: %s", spec, weights.arch, e.what)
    return kept, left_out


def _beside(sides: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """side -> name -> figure -> value, turned to name -> figure -> side -> value."""
    turned: dict[str, dict[str, dict[str, float]]] = {}
    for side, names in sides.items():
        for name, figures in names.items():
            for figure, value in figures.items():
                turned.setdefault(name, {}).setdefault(figure, {})[side] = value
    return turned


def _write_skipped(out: Path, params: TunedParams, reason: str) -> dict[str, Any]:
    log.info("the tuned network: skipped: %s", reason)
    return Skipped(reason).write(out, folders=(*FOLDERS, SOURCE), strategy=params.strategy)
