"""The section `codes`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Section
from pipeline.config.layout import Groups, group
from pipeline.config.specs import LayerSpec, Spec

# MiB that images in flight may take. It changes no value of any code, so it alone has a default here too.
MEMORY_MB = 4096


class CodesParams(Section):
    groups: ClassVar[Groups] = {
        "image": group("view", "crop", "scales", "flip", "combine", "background", "reduced_decode"),
        "compute": group("precision", "device", "batch_size", "memory_mb", "compile"),
    }

    layers: list[Spec] = Field(min_length=1)
    view: Literal["crop", "whole", "squash"]
    crop: int = Field(ge=1, description="crop and squash: side in pixels of the network's input")
    scales: list[int] = Field(min_length=1, description="shorter side in pixels before the crop, one view each")
    flip: bool = Field(description="adds the mirrored view")
    combine: Literal["average", "stack"]
    background: tuple[int, int, int] | list[int] = Field(description="RGB under transparent pixels, 0..255")
    reduced_decode: bool = Field(description="let libjpeg decode large JPEGs at 1/2, 1/4 or 1/8")
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    dtype: Literal["float16", "float32"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    batch_size: int = Field(ge=1, le=4096)
    memory_mb: int = Field(MEMORY_MB, ge=16, description="of images in flight; one that needs more is left out")
    compile: bool

    @model_validator(mode="after")
    def _check(self) -> CodesParams:
        if len(set(self.layers)) != len(self.layers):
            raise ValueError("codes.layers names a spec twice")
        if any(s < 1 for s in self.scales):
            raise ValueError("codes.image.scales must be positive")
        if self.view == "crop" and any(s < self.crop for s in self.scales):
            raise ValueError(f"codes.image.scales {self.scales} must not be below codes.image.crop {self.crop}")
        if self.view == "squash" and self.scales != [self.crop]:
            raise ValueError("with view: squash, codes.image.scales must be [codes.image.crop]")
        if self.view == "whole" and any(LayerSpec.parse(s).pooling == "flatten" for s in self.layers):
            raise ValueError("flatten needs images of one size: use view: crop or squash, or another pooling")
        if len(self.background) != 3 or any(not 0 <= v <= 255 for v in self.background):
            raise ValueError("codes.image.background must be three numbers from 0 to 255")
        return self
