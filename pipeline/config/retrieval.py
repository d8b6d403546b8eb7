"""The section `retrieval`."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Section
from pipeline.config.layout import Groups, group
from pipeline.config.specs import HASHER_NUMBERS, HashSpecName

ApproximateIndex = Literal["multihash", "ivf", "hnsw"]


class RetrievalParams(Section):
    groups: ClassVar[Groups] = {
        "protocol": group("k", "neighbours", "radius", "max_queries", "timed_queries", "c_grid", "memory_mb", "seed"),
    }

    specs: list[HashSpecName] = Field(min_length=1)
    settings: dict[str, dict[str, int | float | str | list[int]]] = Field(
        description="of a hasher, where they are not its own defaults"
    )
    approximate: dict[ApproximateIndex, dict[str, int]] = Field(
        description="approximate indexes whose recall is measured, with their settings; {} for none"
    )
    k: int = Field(ge=1, description="AP and precision at k; the whole database where it is smaller")
    neighbours: int = Field(ge=1, description="true cosine neighbours of a query that recall asks for")
    radius: int = Field(ge=0, description="bits; precision within it")
    max_queries: int = Field(ge=1, description="where there are more test images, this number is drawn")
    timed_queries: int = Field(ge=1, le=100_000)
    c_grid: list[float] = Field(min_length=1, description="C of the linear head on the bits, chosen on validation")
    memory_mb: int = Field(ge=16, description="of the linear head's rows; above this they are streamed")
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> RetrievalParams:
        if len(set(self.specs)) != len(self.specs):
            raise ValueError("retrieval.specs names a spec twice")
        if not all(0 < c < math.inf for c in self.c_grid):
            raise ValueError("retrieval.protocol.c_grid must be positive")
        unknown = sorted(set(self.settings) - (set(HASHER_NUMBERS) - {"cosine"}))
        if unknown:
            raise ValueError(f"retrieval.settings names {unknown}, which are no hashers")
        for hasher, values in self.settings.items():
            if HASHER_NUMBERS[hasher] in values:
                raise ValueError(f"retrieval.settings.{hasher}.{HASHER_NUMBERS[hasher]} belongs in the spec's name")
        return self
