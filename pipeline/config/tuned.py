"""The section `tuned`."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.config.base import Name, Section
from pipeline.config.heads import HeadName
from pipeline.config.specs import HashSpec, HashSpecName, Spec


class TunedParams(Section):
    strategy: Name = Field(description="of finetune.run: the one whose network makes the codes")
    layers: list[Spec] = Field(min_length=1)
    heads: list[HeadName]
    hashes: list[HashSpecName] = Field(description="on codes that `layers` names")
    batch_size: int = Field(
        ge=1, le=4096, description="views at once; small images want more than codes.compute.batch_size"
    )

    @model_validator(mode="after")
    def _check(self) -> TunedParams:
        for key in ("layers", "heads", "hashes"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"tuned.{key} names one twice")
        lacking = [name for name in self.hashes if HashSpec.parse(name).codes.name not in self.layers]
        if lacking:
            raise ValueError(f"tuned.hashes names {lacking}, whose codes are not in tuned.layers")
        return self
