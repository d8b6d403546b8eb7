"""A made-up wiki.mat or imdb.mat with the published fields, and its crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

# Matlab's day of 1980-03-15: datenum(1980, 3, 15).
BORN = 723255.0


@dataclass(frozen=True)
class Face:
    """One entry; the defaults are of a face that is kept. `shade`: of the crop, 0..255."""

    path: str
    name: str = "Ann Example"
    gender: float = 0.0
    score: float = 3.5
    second: float = float("nan")
    born: float = BORN
    taken: int = 2010
    celeb: int = 1
    shade: int = 128


def faces(path: Path, listed: Sequence[Face], *, drop: str = "", **changes: Any) -> None:
    """Writes the file and a crop of noise for each entry. `drop` leaves a field out, `changes` replace fields."""
    fields: dict[str, Any] = {
        "dob": _row([f.born for f in listed]),
        "photo_taken": _row([f.taken for f in listed], np.uint16),
        "full_path": _cells([f.path for f in listed]),
        "gender": _row([f.gender for f in listed]),
        "name": _cells([f.name for f in listed]),
        "face_location": _cells([np.array([1.0, 1.0, 50.0, 50.0]) for _ in listed]),
        "face_score": _row([f.score for f in listed]),
        "second_face_score": _row([f.second for f in listed]),
    }
    if path.stem == "imdb":
        fields |= {"celeb_names": _cells(["Ann"]), "celeb_id": _row([f.celeb for f in listed], np.uint16)}
    fields = {name: value for name, value in (fields | changes).items() if name != drop}
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {path.stem: fields}, do_compression=True)
    for i, face in enumerate(listed):
        crop = path.parent / face.path
        if crop.resolve().is_relative_to(path.parent.resolve()):
            crop.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(i).integers(-20, 21, (40, 40, 3))
            Image.fromarray((noise + face.shade).clip(0, 255).astype(np.uint8)).save(crop)


def _row(values: Sequence[float], dtype: Any = np.float64) -> np.ndarray:
    return np.array([values], dtype=dtype)


def _cells(values: Sequence[Any]) -> np.ndarray:
    cells = np.empty((1, len(values)), dtype=object)
    for i, value in enumerate(values):
        cells[0, i] = value
    return cells
