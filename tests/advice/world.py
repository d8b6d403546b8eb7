"""Codes of several layers of one made-up set, whose quality by layer is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codes.reader import Codes
from pipeline.config import AdviseParams, HeadsParams
from pipeline.data.manifest import Manifest
from tests.heads.world import dataset
from tests.heads.world import params as heads_params

SETTINGS: dict[str, Any] = {
    "arch": "vgg16",
    "weights_sha256": "ab" * 32,
    "crop": 96,
    "view": "crop",
    "precision": "fp32",
}
# Specs, rising in depth, with how far apart the classes' centres are.
APART = {"conv4_3-avg": 0.9, "conv5_2-avg": 0.6, "pool5-avg": 0.25}


def params(**changes: Any) -> AdviseParams:
    values = {
        "folds": 4,
        "max_images": 5000,
        "probe_images": 200,
        "learning_curve": [0.25, 0.5, 1.0],
        "small_images": 250,
        "alike_points": 0.02,
        "alike_distance": 3.0,
        "worth_points": 0.05,
        "reference": "-",
        "seed": 0,
    }
    return AdviseParams.model_validate(values | changes)


def heads(**changes: object) -> HeadsParams:
    return heads_params(**changes)


def world(
    *, n: int = 240, k: int = 3, d: int = 24, apart: Mapping[str, float] = APART, seed: int = 0
) -> tuple[dict[str, Codes], Manifest]:
    """`n` images of `k` classes in turn; of each five in a random order three are train, one val, one test."""
    y = np.arange(n) % k
    labels = [f"class {c}" for c in y]
    codes: dict[str, Codes] = {}
    manifest: Manifest | None = None
    for number, (spec, distance) in enumerate(apart.items()):
        generator = np.random.default_rng([seed, number])
        x = distance * generator.standard_normal((k, d))[y] + generator.standard_normal((n, d))
        rows = np.maximum(x, 0).astype(np.float32)
        plain, manifest = dataset(rows, labels, repeats=1)
        layer, pooling = spec.split("-")[:2]
        settings = SETTINGS | {"layer": layer, "pooling": pooling, "pooling_settings": {}, "l2": False}
        codes[spec] = Codes.from_arrays(plain.ids, rows, spec=spec, settings=settings)
    assert manifest is not None
    return codes, manifest


def rows_of(codes: Codes) -> NDArray[np.float32]:
    found: NDArray[np.float32] = codes.rows(slice(None))
    return found
