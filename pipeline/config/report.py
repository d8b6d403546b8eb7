"""The section `report`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Section


class ReportParams(Section):
    selection: Literal["accuracy", "mean_class_recall", "macro_f1"]
    learning_curve: list[Annotated[float, Field(gt=0.0, le=1.0)]]
    map_images: int = Field(ge=0, le=5000)
    map_method: Literal["pca", "tsne"]
    alpha: float = Field(gt=0, lt=0.5, description="level of the tests that mark differences within noise")
    seed: int = Field(ge=0)
