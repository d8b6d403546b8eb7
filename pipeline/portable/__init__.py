"""A trained classifier as one file for other programs, and answers by it: ONNX, and torch's exported programs."""

from __future__ import annotations

from pathlib import Path

ONNX, PT2 = ".onnx", ".pt2"


def is_model(path: str | Path) -> bool:
    """Whether a path is named as an exported model is."""
    return Path(path).suffix in (ONNX, PT2) and not Path(path).is_dir()
