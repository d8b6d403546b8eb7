"""The section `dataset`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Section

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class DatasetParams(Section):
    source: Literal["folder", "torchvision", "hdf5", "openmoji", "imdb_wiki"]
    root: str = Field(min_length=1, description="image folder, HDF5 file, wiki.mat; else a committed marker")
    name: str = Field(description="torchvision: the dataset class, e.g. Flowers102; '' otherwise")
    splits: Literal["random", "folders"]
    val_share: Fraction
    test_share: Fraction
    repeats: int = Field(ge=1, le=100)
    seed: int = Field(ge=0)
    on_error: Literal["skip", "fail"]
    max_failed_share: float = Field(ge=0.0, le=1.0)
    leave_out: list[Annotated[str, Field(min_length=1)]]
    follow_links: bool
    max_pixels: int = Field(
        gt=0, le=178_956_970, description="an image with more pixels is refused as a decompression bomb"
    )
    draw_size: int = Field(ge=16, le=1024, description="openmoji: side in pixels of the drawn images")
    face_score: float = Field(ge=0.0, description="imdb_wiki: least score of the face detector")
