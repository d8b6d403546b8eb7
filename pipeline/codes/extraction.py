"""The stage `codes`: what the store lacks is computed in one pass an image, then `out/codes/` is made from the store.

Decoding threads fill batches, this thread runs the network, one thread writes shards; each waits for the next, so that
memory holds a few batches and two shards whatever the number of images. A run that was killed goes on from what is in
the store, which lacks half a minute's work.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.base import stopping
from pipeline.base.cache import cache_root
from pipeline.base.counting import counted, size
from pipeline.base.errors import UserError
from pipeline.base.progress import Pace, progress
from pipeline.codes import loading, parts
from pipeline.codes.plan import Lack, Plan, make_plan, require_space
from pipeline.codes.reader import Codes
from pipeline.codes.weights_header import WeightsHeader
from pipeline.codes.writer import ShardWriter
from pipeline.config import CodesParams
from pipeline.data import broken
from pipeline.data.manifest import Manifest
from pipeline.data.originals import remembered
from pipeline.data.room import Room

if TYPE_CHECKING:
    from pipeline.codes.forward import Forward, Result
    from pipeline.nets.weights import Weights

log = logging.getLogger(__name__)

# A store that is damaged again and again is a failing disk.
_MAX_ROUNDS = 3


def extract(
    manifest: Manifest,
    weights: Weights | str | Path,
    params: CodesParams,
    out: str | Path,
    *,
    shard: tuple[int, int] | None = None,
    cache: Path | None = None,
) -> dict[str, Codes]:
    """Codes of every image in `manifest`: spec name -> codes, written to `out/<spec>/`.

    `weights`: a canonical file or the record. `shard` (i, n), i from 1, computes only that share into the store and
    writes no parts (returns {}); once the shares' stores are together, a run without it writes them.

    Images that can't be read any more, whose file changed since the manifest, that turn out to be broken, or that alone
    need more memory than `params.memory_mb`, have no row and are listed in `out/failures.csv`. Raises UserError before
    any work if something doesn't fit (see `plan.make_plan`), if the disk is too small, on a value that the precision or
    dtype can't hold, and if more images turn out to be broken than dataset.max_failed_share and on_error allow.
    """
    out = Path(out)
    header = WeightsHeader.of(weights)
    plan = make_plan(manifest, header, params, shard=shard, cache=cache)
    for store in plan.stores.values():
        store.clear_leftovers()
    failures: dict[int, str] = {}
    for _ in range(_MAX_ROUNDS):
        failed = np.zeros(len(plan.digests), dtype=bool)
        failed[list(failures)] = True
        groups = plan.missing(leave=failed)
        require_space(plan, None if shard else out, groups)
        log.info("%s", describe(plan, groups))
        if groups:
            with stopping.says(plan.kept):
                _compute(plan, groups, manifest, header, Room(params.memory_mb), failures=failures)
        _require_few_broken(plan, manifest, failures, None if shard else out)
        if shard is not None:
            return {}
        found = _export(plan, manifest, failures, out)
        if found is not None:
            return found
    raise UserError(
        f"the store in {cache or cache_root()} was damaged {_MAX_ROUNDS} times while it was read",
        allowed="another disk, by CNNCODES_CACHE",
    )


def describe(plan: Plan, groups: list[Lack]) -> str:
    """One line: images, codes, bytes on disk, and how much of it is there already."""
    images, missing = len(plan.digests), sum(len(g.images) for g in groups)
    codes = counted(len(plan.settings), "code")
    there = f"{missing} of them to compute" if missing else "all of them computed before"
    where = f"{counted(images, 'image')} ({there}), {codes} each: {', '.join(plan.settings)}"
    return f"{where}; {size(plan.row_bytes * images)}"


def _compute(
    plan: Plan,
    groups: list[Lack],
    manifest: Manifest,
    header: WeightsHeader,
    room: Room,
    *,
    failures: dict[int, str],
) -> None:
    """Fills the store. `failures`: position in the plan -> reason, added to."""
    # Only here, so that a run with nothing to compute loads neither torch nor the weights.
    from pipeline.codes.forward import Forward

    weights = header.load()
    files = _files(plan, manifest)
    total = sum(len(g.images) for g in groups)
    common = next(iter(plan.settings.values()))
    pace = Pace(total, f"on {common.device} in {common.precision}")
    with progress(total) as shown, remembered() as originals:

        def advance(images: int) -> None:
            shown(images)
            pace.advance(images)

        for group in groups:
            forward = Forward(weights, [plan.settings[name] for name in group.specs])
            sources = [
                loading.Source(
                    files[i],
                    str(manifest.sha256[plan.first_row[i]]),
                    _pixels(manifest, plan, i),
                    originals=originals,
                )
                for i in group.images
            ]
            _run_group(plan, group, forward, sources, room, failures=failures, advance=advance)


def _run_group(
    plan: Plan,
    group: Lack,
    forward: Forward,
    sources: list[loading.Source],
    room: Room,
    *,
    failures: dict[int, str],
    advance: Callable[[int], None],
) -> None:
    """Computes what the images of a group lack. A batch's rows are taken up only when the next one is under way."""
    per_batch = forward.common.images_per_batch
    pinned = forward.device.type == "cuda"
    waiting: tuple[int, loading.Batch, Callable[[], Result]] | None = None
    with ShardWriter({name: plan.stores[name] for name in group.specs}, plan.shard_rows) as writer:

        def finish(start: int, batch: loading.Batch, result: Callable[[], Result]) -> None:
            images = group.images[start : start + len(batch.sources)]
            rows = result()
            require_finite(rows, batch, forward)
            for position, reason in batch.failures.items():
                failures[int(images[position])] = reason
            good = np.array([i not in batch.failures for i in range(len(images))], dtype=bool)
            notes = {} if forward.limit is None else {"inputs_at_once": forward.limit}
            writer.add(plan.digests[images], rows.rows, good, notes=notes)
            advance(len(images))

        # Closed here, so that no thread waits for room when this one is stopped.
        with contextlib.closing(loading.batches(sources, forward.specs, room=room, pinned=pinned)) as loaded:
            for number, batch in enumerate(loaded):
                launched = (number * per_batch, batch, _launch(forward, batch))
                if waiting is not None:
                    finish(*waiting)
                waiting = launched
            if waiting is not None:
                finish(*waiting)


def _launch(forward: Forward, batch: loading.Batch) -> Callable[[], Result]:
    """A whole image that does not fit the GPU's memory is one that failed; of other views all would."""
    from pipeline.codes.forward import TooLargeError

    try:
        return forward.launch(batch)
    except TooLargeError as e:
        if forward.common.view != "whole":
            raise
        batch.failures[0] = e.what
        batch.images = loading.blank(forward.common)
        return forward.launch(batch)


def require_finite(result: Result, batch: loading.Batch, forward: Forward) -> None:
    """Raises UserError naming the first image with a value that the dtype or the precision can't hold."""
    for name, rows in result.rows.items():
        bad = ~np.isfinite(rows).all(axis=1)[: len(batch.sources)]
        bad[list(batch.failures)] = False
        if not bad.any():
            continue
        position = int(np.flatnonzero(bad)[0])
        file = batch.sources[position].files[0]
        image = file if isinstance(file, Path) else "an image"
        if result.sound[name][position]:
            raise UserError(f"{name} of {image} has a value that float16 cannot hold", allowed="codes.dtype: float32")
        raise UserError(
            f"{name} of {image} has a value that {forward.common.precision} cannot hold",
            allowed="codes.compute.precision: bf16 or fp32, and weights that fit their preprocessing",
        )


def _require_few_broken(plan: Plan, manifest: Manifest, failures: dict[int, str], out: Path | None) -> None:
    """Raises UserError, see `broken.require_few`; then `out`, if it is one, lists them."""
    lost = _lost(plan, manifest, failures)
    try:
        broken.require_few(manifest, lost, see=out / parts.FAILURES if out else None)
    except UserError:
        if out is not None:
            _write_failures(manifest, lost, out)
        raise


def _lost(plan: Plan, manifest: Manifest, failures: dict[int, str]) -> dict[int, str]:
    """Rows of the manifest, ascending -> why they have no codes."""
    if not failures:
        return {}
    reasons = {plan.digests[i].decode(): reason for i, reason in failures.items()}
    return {row: reasons[d] for row, d in enumerate(manifest.pixel_digests.tolist()) if d in reasons}


def _write_failures(manifest: Manifest, lost: dict[int, str], out: Path) -> None:
    parts.write_failures(out, {str(manifest.ids[i]): (str(manifest.paths[i]), reason) for i, reason in lost.items()})


def _export(plan: Plan, manifest: Manifest, failures: dict[int, str], out: Path) -> dict[str, Codes] | None:
    """Makes `out` from the store; None if a shard turned out damaged."""
    digests = manifest.pixel_digests.astype("S64")
    lost = _lost(plan, manifest, failures)
    has_row = np.ones(len(manifest), dtype=bool)
    has_row[list(lost)] = False
    found = {}
    for name, settings in plan.settings.items():
        codes = parts.export_parts(settings, plan.stores[name], manifest.ids[has_row], digests[has_row], out / name)
        if codes is None:
            return None
        found[name] = codes
    parts.remove_other_specs(out, list(found))
    _write_failures(manifest, lost, out)
    if lost:
        log.warning("%d images have no codes: see %s", len(lost), out / parts.FAILURES)
    return found


def _files(plan: Plan, manifest: Manifest) -> list[tuple[Path | bytes, ...]]:
    """The files of each image of the plan; equal files are one image."""
    at = np.searchsorted(plan.digests, manifest.pixel_digests.astype("S64"))
    files: list[list[Path]] = [[] for _ in plan.digests]
    for row, position in enumerate(np.minimum(at, len(files) - 1)):
        if plan.digests[position].decode() == manifest.pixel_digests[row]:
            files[position].append(manifest.file(row))
    return [tuple(f) for f in files]


def _pixels(manifest: Manifest, plan: Plan, image: int) -> int:
    """Pixels that decoding may meet: the manifest has seen the same bytes."""
    row = plan.first_row[image]
    return int(manifest.widths[row] * manifest.heights[row])
