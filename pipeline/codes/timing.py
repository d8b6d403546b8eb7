"""What a pass of the network costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.codes.embedder import Embedder

ROUNDS = 3


def seconds_per_image(weights: str | Path, settings: Mapping[str, Any], images: Sequence[bytes]) -> float:
    """Seconds for the codes of `settings` (`Codes.settings`) from an image file's bytes, decoding included: the median
    of ROUNDS passes over `images` together, after one that isn't counted. Raises UserError as `Embedder` does."""
    network = Embedder(weights, settings)
    took = []
    for _ in range(1 + ROUNDS):
        began_s = time.perf_counter()
        network(images)
        took.append((time.perf_counter() - began_s) / len(images))
    return statistics.median(took[1:])
