"""Small image folders and params for the tests of the dataset stage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import DatasetParams, validate

PARAMS: dict[str, Any] = {
    "source": "folder",
    "root": "photos",
    "train": [],
    "test": [],
    "name": "",
    "splits": "random",
    "val_share": 0.2,
    "test_share": 0.2,
    "repeats": 2,
    "seed": 0,
    "on_error": "skip",
    "max_failed_share": 0.5,
    "leave_out": [],
    "follow_links": False,
    "max_pixels": 1_000_000,
    "draw_size": 32,
    "face_score": 1.0,
}


def params(**changes: Any) -> DatasetParams:
    return validate(DatasetParams, PARAMS | {k: str(v) if k == "root" else v for k, v in changes.items()}, where="test")


def picture(path: Path, seed: int, *, height: int = 6, width: int = 9) -> Path:
    """A PNG of noise; another seed, another content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def folder(root: Path, *, classes: Iterable[str] = ("cat", "dog"), each: int = 5) -> Path:
    """One folder a class, all images distinct."""
    for c, name in enumerate(classes):
        for i in range(each):
            picture(root / name / f"{i}.png", 1000 * c + i)
    return root
