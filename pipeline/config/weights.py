"""The section `weights`."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.base import Section


class WeightsParams(Section):
    arch: str
    source: str = Field(min_length=1, description="demo, pretrained[:TAG], torchvision:NAME, random:SEED, or file")
    file: str = Field(min_length=1, description="the weights file where source is `file`; else a committed marker")

    @classmethod
    def of(cls, arch: str, source: str) -> WeightsParams:
        """As on a command line, where `source` may also be the path of a weights file."""
        if source == "demo" or source.partition(":")[0] in ("pretrained", "torchvision", "random"):
            return cls(arch=arch, source=source, file="-")
        return cls(arch=arch, source="file", file=source or "-")
