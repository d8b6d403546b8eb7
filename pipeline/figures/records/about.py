"""The images, the network and the settings that all figures are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import LayerSpec


@dataclass(frozen=True)
class Picture:
    """`thumbnail` names one of thumbnails.json; "" if the file is gone or another one. `name`: the path, or words."""

    thumbnail: str
    name: str


@dataclass(frozen=True)
class UsedLayer:
    """`receptive_field`: px of the network's input that a value depends on, a side; None where it isn't known."""

    name: str
    receptive_field: int | None


@dataclass(frozen=True)
class UsedCodes:
    """`dim` values an image; `side`: px of the images' side, the shorter one of whole images, at the least scale."""

    spec: LayerSpec
    dim: int
    side: int


@dataclass(frozen=True)
class About:
    """`layers`: in the order in which the network computes them, from the first to the deepest that is used. `codes`:
    in that order too, those of one layer as params.yaml has them. `best_spec`: the winner's codes; without labels the
    deepest layer's, of several the smallest; "" without codes. `lost`: images that could not be read."""

    name: str
    arch: str
    images: int
    classes: tuple[str, ...]
    lost: int
    samples: tuple[Picture, ...]
    layers: tuple[UsedLayer, ...]
    codes: tuple[UsedCodes, ...]
    best_spec: str
    heads: tuple[str, ...]
    selection: str
    alpha: float

    @property
    def specs(self) -> tuple[str, ...]:
        return tuple(one.spec.name for one in self.codes)

    @property
    def layer_order(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)

    def codes_of(self, spec: str) -> UsedCodes:
        return self.codes[self.specs.index(spec)]

    def layer(self, name: str) -> UsedLayer:
        return self.layers[self.layer_order.index(name)]

    def depth(self, spec: LayerSpec) -> int:
        """The layer's place in the network."""
        return self.layer_order.index(spec.layer)


@dataclass(frozen=True)
class Method:
    """How all was made. `unlabelled`: None of a set without labels. `splits`: train, val and test -> the fewest and the
    most images in a split. `class_sizes`, `failures`: the first ones, of `lost` images. `codes`: spec -> settings.
    `heads`: settings, {} where none were trained. `trained`: whether heads or strategies were."""

    source: str
    unlabelled: int | None
    other_files: int
    left_out: int
    repeats: int
    from_source: tuple[str, ...]
    seed: int
    splits: Mapping[str, tuple[int, int]]
    class_sizes: tuple[tuple[str, int], ...]
    weights: Mapping[str, Any]
    codes: Mapping[str, Mapping[str, Any]]
    heads: Mapping[str, Any]
    trained: bool
    failures: tuple[tuple[str, str], ...]
