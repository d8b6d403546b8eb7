"""Trained weights: one record, one canonical file, one reader for each foreign format.

The names below are the interface; the rest of the library needs no other.
"""

from pipeline.nets.weights.record import (
    Preprocessing,
    Weights,
    held_layers,
    read_canonical,
    require_held,
    write_canonical,
)
from pipeline.nets.weights.sources import WEIGHT_READERS, resolve

__all__ = [
    "WEIGHT_READERS",
    "Preprocessing",
    "Weights",
    "held_layers",
    "read_canonical",
    "require_held",
    "resolve",
    "write_canonical",
]
