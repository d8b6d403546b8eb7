"""Which network, which layer and which head: several folders of codes of the same images, against one another."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import ReportParams
from pipeline.data.manifest import Manifest
from pipeline.figures import compare as comparison
from pipeline.figures.records.networks import ComparedNetwork, Networks
from pipeline.figures.runs import read_runs


def compare(
    networks: Sequence[ComparedNetwork],
    manifest: Manifest,
    folder: Path,
    *,
    heads: Sequence[str],
    params: ReportParams,
    timed: int,
) -> Networks:
    """From the heads in `folder`, whose names begin with NETWORK.SPEC. Raises UserError naming what is missing."""
    runs = [run for one in networks for run in read_runs(folder, list(one.settings), heads, network=one.name)]
    return Networks(
        images=manifest.root.resolve().name if manifest.source in ("folder", "hdf5") else manifest.source,
        count=len(manifest),
        classes=len(manifest.classes),
        networks=tuple(networks),
        comparison=comparison.compare(runs, folder, metric=params.selection, alpha=params.alpha),
        timed=min(timed, len(manifest)),
        machine=f"{platform.machine()}, {next(iter(networks[0].settings.values()))['device']}",
    )


def as_json(found: Networks) -> dict[str, Any]:
    """Plain values: a row for each network, layer and head, the best first. `sd`, `p` and `seconds_per_image` are null
    where there are none."""
    board = found.comparison
    rows = []
    for run in found.best_first:
        sd, seconds = run.std(board.metric), found.seconds_per_image(run)
        rows.append(
            {
                "network": run.network,
                "layer": run.spec.name,
                "head": run.head,
                "mean": run.mean(board.metric),
                "sd": None if math.isnan(sd) else sd,
                "n": len(run.repeats),
                "verdict": board.verdict(run),
                "p": board.p[board.runs.index(run)],
                "seconds_per_image": seconds,
                "bytes": run.bytes_per_code,
            }
        )
    networks = {
        one.name: {"arch": one.arch, "source": one.source, "folder": one.folder, "sides": list(one.sides)}
        for one in found.networks
    }
    return {
        "metric": board.metric,
        "alpha": board.alpha,
        "images": found.count,
        "classes": found.classes,
        "timed_images": found.timed,
        "networks": networks,
        "rows": rows,
    }
