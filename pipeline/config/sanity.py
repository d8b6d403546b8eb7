"""The section `sanity`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from pipeline.config.base import Name, Section
from pipeline.config.layout import Groups, group


class SanityParams(Section):
    groups: ClassVar[Groups] = {
        "steps": group(
            *("batches", "overfit_steps", "sweep_low", "sweep_high", "sweep_steps", "grid_rates", "grid_decays"),
            *("epochs", "rounds"),
        ),
    }

    strategies: list[Name] = Field(min_length=1, description="names of finetune.strategies to check")
    batches: int = Field(ge=1, description="that the first loss is of, and that are to be learned by heart")
    overfit_steps: int = Field(ge=1, description="at most, at each rate that is tried")
    sweep_low: float = Field(gt=0.0)
    sweep_high: float = Field(gt=0.0)
    sweep_steps: int = Field(ge=3, description="rates between them, a batch each")
    grid_rates: list[Annotated[float, Field(gt=0.0)]] = Field(min_length=1, description="factors on the rate found")
    grid_decays: list[Annotated[float, Field(ge=0.0)]] = Field(min_length=1, description="factors on the weight decay")
    epochs: int = Field(ge=1, description="of each run of a grid")
    rounds: int = Field(ge=1, le=5, description="grids: a coarse one, the others about the best so far")

    @model_validator(mode="after")
    def _check(self) -> SanityParams:
        if len(set(self.strategies)) != len(self.strategies):
            raise ValueError("sanity.strategies names one twice")
        if self.sweep_low >= self.sweep_high:
            raise ValueError(f"sanity.steps.sweep_low {self.sweep_low:g} must be below sweep_high {self.sweep_high:g}")
        if self.grid_rates != sorted(set(self.grid_rates)) or self.grid_decays != sorted(set(self.grid_decays)):
            raise ValueError("sanity.steps.grid_rates and grid_decays must rise")
        return self
