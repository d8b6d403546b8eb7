"""The section `heads`."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Section
from pipeline.config.layout import Groups, group

HeadName = Literal["svm", "svm_cs", "softmax", "softmax_l1", "softmax_elastic", "knn"]


class HeadsParams(Section):
    groups: ClassVar[Groups] = {"fit": group("scaling", "c_grid", "k_grid", "class_weight", "memory_mb", "seed")}

    heads: list[HeadName] = Field(min_length=1)
    scaling: Literal["l2", "standardise", "none"]
    c_grid: list[float] = Field(min_length=1)
    k_grid: list[int] = Field(min_length=1)
    class_weight: Literal["none", "balanced"]
    memory_mb: int = Field(ge=16, description="codes above this are streamed")
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> HeadsParams:
        for c in self.c_grid:
            if not 0 < c < math.inf:
                raise ValueError(f"heads.fit.c_grid has {c:g}; allowed: numbers above 0")
        for k in self.k_grid:
            if k < 1:
                raise ValueError(f"heads.fit.k_grid has {k}; allowed: whole numbers from 1")
        return self
