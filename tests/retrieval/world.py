"""Tiny codes with known classes and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codes.reader import Codes
from pipeline.config import RetrievalParams
from pipeline.data.manifest import Manifest

SPEC = "pool5-flatten"


def params(**changes: Any) -> RetrievalParams:
    values: dict[str, Any] = {
        "specs": ["cosine-pool5-flatten"],
        "settings": {},
        "approximate": {"multihash": {"tables": 1, "table_bits": 8, "flips": 0}},
        "k": 5,
        "neighbours": 3,
        "radius": 2,
        "max_queries": 1000,
        "timed_queries": 2,
        "c_grid": [1.0],
        "memory_mb": 64,
        "seed": 0,
    }
    return RetrievalParams.model_validate(values | changes)


def dataset(
    x: NDArray[Any], targets: NDArray[np.int64] | None, splits: list[str], *, coded: NDArray[np.bool_] | None = None
) -> tuple[Codes, Manifest]:
    """Codes and manifest of the rows of `x`, whose ids ascend; `targets` None is unlabelled; `coded` have codes."""
    n = len(x)
    ids = np.array([f"{i:016x}-0" for i in range(n)])
    manifest = Manifest(
        root=Path(),
        source="folder",
        ids=ids,
        paths=np.array([f"{i}.png" for i in range(n)]),
        labels=np.array(["" if targets is None else f"class {targets[i]}" for i in range(n)]),
        groups=np.array([""] * n),
        sha256=np.array([f"{i:016x}{0:048x}" for i in range(n)]),
        widths=np.full(n, 8),
        heights=np.full(n, 8),
        splits=np.array([splits]),
        seed=0,
        from_source=(),
    )
    kept = np.ones(n, dtype=bool) if coded is None else coded
    return Codes.from_arrays(ids[kept], x[kept], spec=SPEC, settings={"layer": "pool5"}), manifest


def blobs(
    n: int, d: int, *, classes: int = 3, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """Codes (n, d) as after a ReLU that cluster by class, and splits: of five, three train, one val, one test."""
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.arange(n) % classes)
    x = 3 * generator.random((classes, d))[y] + generator.standard_normal((n, d))
    splits = generator.permutation(np.resize(["train", "train", "train", "val", "test"], n)).tolist()
    return np.maximum(x, 0).astype(np.float32), y, splits
