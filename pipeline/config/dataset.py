"""The section `dataset`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section

File = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class DatasetParams(Section):
    source: Literal["folder", "torchvision", "hdf5", "openmoji", "imdb_wiki"]
    root: str = Field(min_length=1, description="image folder, HDF5 file, wiki.mat; else a committed marker")
    train: list[File] = Field(description="hdf5: files of train and val, which lie in the folder root; [] otherwise")
    test: list[File] = Field(description="hdf5: files of test, in the folder root too")
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

    @model_validator(mode="after")
    def _files_fit(self) -> Self:
        if (self.train or self.test) and self.source != "hdf5":
            raise ValueError(f"train and test name HDF5 files, but source is {self.source}")
        if self.test and not self.train:
            raise ValueError("test names files and train none")
        root = Path(os.path.abspath(self.root))
        for file in (*self.train, *self.test):
            # DVC watches the root: it takes no list of files.
            if root not in Path(os.path.abspath(file)).parents:
                raise ValueError(f"{file} of train or test does not lie in root, {self.root}; root is a folder of both")
        return self
