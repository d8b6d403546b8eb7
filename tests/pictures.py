"""Small drawn photographs for tests: classes that a network with random weights can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 210)}


def draw_classes(folder: Path, *, per_class: int, side: int = 40, seed: int = 0) -> Path:
    """`folder`/<colour>/<i>.png: a noisy square of the class's colour, each file different."""
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            noise = generator.integers(-30, 30, size=(side, side, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder
