"""What any architecture has once it has weights, see `backbone.Backbone`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.nets import backbone
from pipeline.nets.backbone import Architecture, Layer

if TYPE_CHECKING:
    from pipeline.nets.weights import Preprocessing, Weights

A = TypeVar("A", bound=Architecture)


class Weighted(Generic[A]):
    """An architecture with weights, all of a `Backbone` but what runs and trains it."""

    def __init__(self, about: A, weights: Weights) -> None:
        self.about = about
        self.weights = weights

    @property
    def sha256(self) -> str:
        return self.weights.sha256

    @property
    def preprocessing(self) -> Preprocessing:
        return self.weights.preprocessing

    def layers(self) -> tuple[Layer, ...]:
        held = set(backbone.held(self.about, self.weights.tensors))
        return tuple(layer for layer in self.about.layers() if layer.name in held)

    def key(self) -> dict[str, Any]:
        p = self.preprocessing
        norm = {"channels": p.channels, "scale": p.scale, "mean": list(p.mean), "std": list(p.std)}
        return {"arch": self.about.arch, "weights_sha256": self.sha256, "normalisation": norm}
