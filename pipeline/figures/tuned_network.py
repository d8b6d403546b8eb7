"""What the stage `tuned` left: codes, heads and hashes of a tuned network and of its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.base import json_files
from pipeline.base.skipped import reason_in
from pipeline.figures.records.training import Pair, TunedNetwork
from pipeline.figures.runs import predictions, read_runs
from pipeline.metrics.significance import mcnemar_exact


def read_tuned_network(folder: Path) -> TunedNetwork | None:
    """None where the stage did not run, or was skipped."""
    if not (folder / "metrics.json").is_file():
        return None
    record = json_files.read(folder / "metrics.json")
    if reason_in(record):
        return None
    pairs = []
    for spec, heads in record["accuracy"].items():
        for head, sides in heads.items():
            p = _p(folder, spec, head) if len(sides) == 2 else None
            pairs.append(Pair(f"{head} on {spec}", "accuracy", sides.get("source"), sides.get("tuned"), p))
    for name, figures in record["hashes"].items():
        k = next(iter(figures["k"].values()))
        sides = figures["map_at_k"]
        pairs.append(Pair(name, f"mAP@{k}", sides.get("source"), sides.get("tuned")))
    return TunedNetwork(record, tuple(pairs), tuple(_heads(folder, record)))


def _heads(folder: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Mapping[str, Any], ...]]]:
    """(whose head on which codes, its repeats)."""
    for spec, heads in record["accuracy"].items():
        for head, sides in heads.items():
            for side in sides:
                (run,) = read_runs(_root(folder, side) / "heads", [spec], [head])
                yield f"{head} on {spec} of the {side} network", run.repeats


def _root(folder: Path, side: str) -> Path:
    return folder / "source" if side == "source" else folder


def _p(folder: Path, spec: str, head: str) -> float:
    """That both heads err equally often on the same test images."""
    roots = [root / "heads" for root in (_root(folder, "source"), folder)]
    source, tuned = (predictions(root, read_runs(root, [spec], [head])[0], 0).correct for root in roots)
    return mcnemar_exact(source, tuned)
