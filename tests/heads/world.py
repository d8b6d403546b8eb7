"""Small sets of codes with known classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams
from pipeline.data.manifest import Manifest
from pipeline.heads.scaling import Scaling
from pipeline.heads.stream import Matrix

SETTINGS = {"layer": "pool5", "crop": 96, "precision": "fp32", "device": "cpu"}


def blobs(
    n: int, d: int, k: int, *, seed: int = 0, apart: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Codes (n, d) as after a ReLU, and their classes 0..k-1 in turn."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = apart * generator.standard_normal((k, d))[y] + generator.standard_normal((n, d))
    return np.maximum(x, 0).astype(np.float32), y


class Held:
    def __init__(self, x: NDArray[np.float32]) -> None:
        self.x = x

    def rows(self, index: NDArray[np.int64], /) -> NDArray[np.float32]:
        return self.x[index]


def rows(x: NDArray[np.float32], *, kind: str = "l2", memory_bytes: int = 1 << 28) -> Matrix:
    scaling = Scaling.fit(kind, [x])
    return Matrix(Held(x), np.arange(len(x)), x.shape[1], scaling, memory_bytes=memory_bytes)


def params(**changes: object) -> HeadsParams:
    values: dict[str, object] = {
        "heads": ["svm"],
        "scaling": "l2",
        "c_grid": [0.1, 1.0, 10.0],
        "k_grid": [1, 3],
        "class_weight": "none",
        "memory_mb": 256,
        "seed": 0,
    }
    return HeadsParams.model_validate(values | changes)


def dataset(
    x: NDArray[np.float32], labels: list[str], *, repeats: int = 2, splits: NDArray[np.str_] | None = None
) -> tuple[Codes, Manifest]:
    """Codes and manifest of `x`; without `splits`, of each five rows in a random order one is val and one test."""
    n = len(x)
    ids = np.array([f"{i:016x}-0" for i in range(n)])
    if splits is None:
        generator = np.random.default_rng(1)
        pattern = np.array(["train", "train", "train", "val", "test"])
        splits = np.stack([pattern[generator.permutation(n) % 5] for _ in range(repeats)])
    manifest = Manifest(
        root=Path(),
        source="folder",
        ids=ids,
        paths=np.array([f"{i}.png" for i in range(n)]),
        labels=np.array(labels),
        groups=np.array([""] * n),
        sha256=np.array([f"{i:016x}{0:048x}" for i in range(n)]),
        widths=np.full(n, 8),
        heights=np.full(n, 8),
        splits=splits,
        seed=0,
        from_source=(),
    )
    return Codes.from_arrays(ids, x, spec="pool5-avg", settings=SETTINGS), manifest
