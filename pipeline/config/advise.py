"""The section `advise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config.base import Section

# What stands for no file: the marker in the shipped params.yaml, a dep that is always there, and the preset's.
_NO_FILE = ("stages/no-folder", "-")


class AdviseParams(Section):
    folds: int = Field(ge=2, le=20, description="of the cross-validation on train and val")
    max_images: int = Field(ge=20, description="where there are more training images, this number is drawn")
    probe_images: int = Field(ge=20, description="images that LogME, the H-score and the distance look at")
    learning_curve: list[Annotated[float, Field(gt=0.0, le=1.0)]] = Field(
        description="shares of those images, rising to 1"
    )
    small_images: int = Field(ge=1, description="fewer training images a class, by the median, are few")
    alike_points: float = Field(
        ge=0.0, lt=1.0, description="accuracy that the top layer may lack of the best layer's and still be as good"
    )
    alike_distance: float = Field(
        gt=0.0, description="distance from the reference, in those of its own halves, up to which codes are alike"
    )
    worth_points: float = Field(
        ge=0.0, lt=1.0, description="accuracy above the largest class's share below which it is not worth it"
    )
    reference: str = Field(
        min_length=1, description="a file of `cnncodes weights reference`; a committed marker for none"
    )
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> AdviseParams:
        curve = self.learning_curve
        if not curve or curve != sorted(set(curve)) or curve[-1] != 1.0:
            raise ValueError("advise.learning_curve must rise and end at 1.0")
        return self

    @property
    def reference_file(self) -> Path | None:
        return None if self.reference in _NO_FILE else Path(self.reference)
