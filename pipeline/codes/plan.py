"""What an extraction will do, known before it does anything: which rows are missing, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, stopping
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.codes import loading
from pipeline.codes.settings import Settings, resolve
from pipeline.codes.store import Digests, Store
from pipeline.codes.weights_header import WeightsHeader
from pipeline.config import CodesParams
from pipeline.data.manifest import Manifest
from pipeline.data.room import Room

# Rows of a shard, at most. About two minutes of a slow processor, seconds of a GPU.
_SHARD_ROWS = {"cpu": 256, "mps": 1024, "cuda": 8192}
_SHARD_BYTES = 64 << 20
_LESS = "fewer layers, a pooling, float16"


@dataclass(frozen=True)
class Lack:
    """Images (positions in the plan's `digests`, ascending) that lack the same specs: one pass makes them all."""

    specs: tuple[str, ...]
    images: NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """`digests`: the pixels of every image (`Manifest.pixel_digests`) once, ascending. `first_row`: (n,) its first row
    in the manifest.
    """

    settings: dict[str, Settings]
    stores: dict[str, Store]
    digests: Digests
    first_row: NDArray[np.int64]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's rows of all specs."""
        return sum(store.dim * store.dtype.itemsize for store in self.stores.values())

    @property
    def shard_rows(self) -> int:
        """Whole batches, whatever is missing."""
        common = next(iter(self.settings.values()))
        fitting = min(_SHARD_ROWS[common.device], _SHARD_BYTES // self.row_bytes)
        return max(1, fitting // common.images_per_batch) * common.images_per_batch

    def kept(self) -> str:
        """What a run that is stopped leaves in the store, in words."""
        known = np.all([store.known(self.digests) for store in self.stores.values()], axis=0)
        return f"{int(known.sum())} of {len(known)} images are kept; {stopping.GOES_ON}"

    def missing(self, *, leave: NDArray[np.bool_] | None = None) -> list[Lack]:
        """The work that is left, images in ascending order of digest; `leave`: (n,) images not to try."""
        absent = np.stack([~store.known(self.digests) for store in self.stores.values()], axis=1)  # (n, specs)
        if leave is not None:
            absent[leave] = False
        patterns, pattern_of = np.unique(absent, axis=0, return_inverse=True)
        names = np.array(list(self.stores))
        return [
            Lack(tuple(str(n) for n in names[pattern]), np.flatnonzero(pattern_of.reshape(-1) == number))
            for number, pattern in enumerate(patterns)
            if pattern.any()
        ]

    def missing_bytes(self, lacks: Sequence[Lack]) -> int:
        """Bytes of the rows that are missing."""
        row = {spec: store.dim * store.dtype.itemsize for spec, store in self.stores.items()}
        return sum(len(lack.images) * sum(row[spec] for spec in lack.specs) for lack in lacks)

    def as_json(self) -> dict[str, Any]:
        """Plain values: images, missing images, layers, bytes of the parts and of what is missing in the store."""
        lacks = self.missing()
        return {
            "images": len(self.digests),
            "images_missing": int(sum(len(lack.images) for lack in lacks)),
            "codes": list(self.settings),
            "bytes": self.row_bytes * len(self.digests),
            "bytes_missing": self.missing_bytes(lacks),
        }


def check(weights: WeightsHeader, params: CodesParams) -> dict[str, Settings]:
    """Spec name -> settings, if these weights can make such codes on this machine, whatever the images.

    Raises UserError on layers that the architecture or the weights lack or that don't fit the images' size, on a
    device that is not there, and on batches that don't fit `memory_mb`.
    """
    settings = resolve(
        params,
        arch=weights.arch,
        weights_sha256=weights.sha256,
        normalisation=weights.normalisation,
        resampling=weights.resampling,
        geometry=weights.geometry,
    )
    weights.require_layers(s.layer for s in settings.values())
    for s in settings.values():
        s.dim(num_classes=weights.num_classes)
    loading.require_batch(list(settings.values()), Room(params.memory_mb))
    return settings


def make_plan(
    manifest: Manifest,
    weights: WeightsHeader,
    params: CodesParams,
    *,
    shard: tuple[int, int] | None = None,
    cache: Path | None = None,
) -> Plan:
    """Checks all that can be checked before work starts and finds what the store already holds.

    `shard` (i, n), i from 1: only images whose digest falls to i. Raises UserError, see `check`.
    """
    settings = check(weights, params)
    stores = {
        name: Store(s.as_json(), dim=s.dim(num_classes=weights.num_classes), dtype=s.dtype, root=cache or cache_root())
        for name, s in settings.items()
    }
    digests, first_row = np.unique(manifest.pixel_digests.astype("S64"), return_index=True)
    if shard is not None:
        i, n = shard
        if not 1 <= i <= n:
            raise UserError(f"shard {i}/{n} is not i/n", allowed="1/4 to 4/4, for four machines")
        mine = np.array([int(d[:8], 16) % n == i - 1 for d in digests], dtype=bool)
        digests, first_row = digests[mine], first_row[mine]
    return Plan(settings, stores, digests, first_row.astype(np.int64))


def require_space(plan: Plan, out: Path | None, lacks: Sequence[Lack]) -> None:
    """Raises UserError if the store's missing rows or the parts don't fit their disks. `out` None: no parts."""
    store = next(iter(plan.stores.values())).folder
    missing = plan.missing_bytes(lacks)
    parts = 0 if out is None else max(0, plan.row_bytes * len(plan.digests) - _bytes_below(out))
    together = out is not None and _device(store) == _device(out)
    disk.require_space(store, missing + (parts if together else 0), what="the store of codes", less=_LESS)
    if out is not None and not together:
        disk.require_space(out, parts, what="the codes", less=_LESS)


def _bytes_below(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*/part-*.h5")) if folder.is_dir() else 0


def _device(path: Path) -> int:
    probe = path.absolute()
    while not probe.exists():
        probe = probe.parent
    return probe.stat().st_dev
