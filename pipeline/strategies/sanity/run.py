"""All steps of the procedure for one strategy."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.base import stopping
from pipeline.config import MEMORY_MB, FinetuneParams, SanityParams
from pipeline.data.manifest import Manifest
from pipeline.nets.weights import Weights
from pipeline.strategies.prepared import place_of
from pipeline.strategies.sanity.bench import Bench
from pipeline.strategies.sanity.first import find_rate, first_loss, overfit
from pipeline.strategies.sanity.grid import search
from pipeline.strategies.sanity.step import Step
from pipeline.strategies.sets import sets_of

log = logging.getLogger(__name__)


def check(
    name: str,
    manifest: Manifest,
    weights: Weights,
    params: FinetuneParams,
    how: SanityParams,
    *,
    cache: Path,
    memory_mb: int = MEMORY_MB,
) -> list[Step]:
    """All steps for a strategy on the first split, of which test is never looked at; [] without labels.

    Nothing is written but the caches of images and codes. A step that can't be judged because an earlier one failed is
    still run: its curve helps to find out why. Raises UserError if the strategy trains nothing, or doesn't fit.
    """
    if not manifest.classes:
        return []
    params = params.of(name)
    place = place_of(name, manifest, weights, params, cache, memory_mb=memory_mb)
    sets = sets_of(manifest, place.images, 0, max_train=params.max_train, seed=params.seed)
    steps: list[Step] = []
    bench = Bench(place, sets, how)

    def kept() -> str:
        return f"{len(steps)} of the steps were done; short runs are kept, and the same command goes on with them"

    with stopping.says(kept):
        for step in _steps(bench):
            log.info("%s: %s. %s %s", step.verdict.upper(), step.name, step.seen, step.advice)
            steps.append(step)
    shutil.rmtree(bench.runs, ignore_errors=True)
    return steps


def _steps(at: Bench) -> Iterator[Step]:
    made, bare = at.ready(), at.bare()
    plain = bare.ready()
    yield first_loss(bare, plain)
    yield overfit(bare, plain)
    swept, rate = find_rate(at, made)
    yield swept
    yield from search(at, rate)
