"""Hashes as measured, and what some of them find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.base.skipped import reason_in
from pipeline.config import HashSpec
from pipeline.figures.records.about import Picture


@dataclass(frozen=True)
class Retrieved:
    """`record` is metrics.json; `training` the rows of training.csv, none of a hasher that is not trained by epochs."""

    spec: HashSpec
    record: Mapping[str, Any]
    training: tuple[Mapping[str, str], ...]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_reference(self) -> bool:
        """Exact cosine on the floats, which has no bits."""
        return self.spec.hasher == "cosine"

    @property
    def nbits(self) -> int:
        return int(self.record["nbits"])

    @property
    def skipped(self) -> str:
        """Why the stage measured nothing; "" if it did."""
        return reason_in(self.record)

    def figure(self, name: str) -> float | None:
        """A number of the record; `popcount.std` and the like reach into it. None where there is none."""
        value: Any = self.record
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else float(value)


@dataclass(frozen=True)
class Neighbour:
    """`distance`: bits apart, or 1 - cosine. `hit` is "" without labels, else "hit" or "miss"."""

    picture: Picture
    label: str
    distance: float
    hit: Literal["", "hit", "miss"]


@dataclass(frozen=True)
class Answer:
    """What a method finds, the nearest first. `words`: what the method stands for here."""

    words: str
    name: str
    is_reference: bool
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Query:
    picture: Picture
    label: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Retrieval:
    """`every`: measured or skipped, in the order of params.yaml. `labelled`: relevance is by label."""

    every: tuple[Retrieved, ...]
    labelled: bool
    queries: tuple[Query, ...] = ()

    @property
    def found(self) -> tuple[Retrieved, ...]:
        """Those that were measured."""
        return tuple(one for one in self.every if not one.skipped)

    @property
    def hashes(self) -> tuple[Retrieved, ...]:
        """Those that were measured and have bits."""
        return tuple(one for one in self.found if not one.is_reference)

    @property
    def quality(self) -> str:
        """The figure by which they are ranked."""
        return "map_at_k" if self.labelled else "recall_at_neighbours"

    def value(self, one: Retrieved) -> float:
        return one.figure(self.quality) or 0.0

    @property
    def best(self) -> Retrieved:
        """The best of `hashes`; of equal ones that of fewer bits."""
        return max(self.hashes, key=lambda one: (self.value(one), -one.nbits))

    def reference_of(self, one: Retrieved) -> Retrieved | None:
        """Exact cosine on the codes that were hashed, if it was measured."""
        return next((r for r in self.found if r.is_reference and r.spec.codes == one.spec.codes), None)
