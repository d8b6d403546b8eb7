"""What the stage `tuned` left: codes, heads and hashes of a tuned network and of its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.metrics.significance import mcnemar_exact
from pipeline.report.notes import sentences
from pipeline.report.runs import read_runs
from pipeline.schema import read_json


@dataclass(frozen=True)
class Pair:
    """A figure of the source and of the tuned network, None where one has none; `p` of McNemar's exact test."""

    what: str
    figure: str
    source: float | None
    tuned: float | None
    p: float | None = None

    @property
    def gain(self) -> float | None:
        return None if self.source is None or self.tuned is None else self.tuned - self.source


@dataclass(frozen=True)
class TunedNetwork:
    """`record` is metrics.json; `notes` on the heads in it, sentences."""

    record: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def read_tuned_network(folder: Path) -> TunedNetwork | None:
    """None where the stage did not run, or was skipped."""
    if not (folder / "metrics.json").is_file():
        return None
    record = read_json(folder / "metrics.json")
    if "skipped" in record:
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
    return TunedNetwork(record, tuple(pairs), tuple(sentences(_runs(folder, record))))


def _runs(folder: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
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
    sides = [read_runs(root / "heads", [spec], [head])[0] for root in (_root(folder, "source"), folder)]
    source, tuned = (run.predictions(0).correct for run in sides)
    return mcnemar_exact(source, tuned)
