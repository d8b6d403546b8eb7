"""A few small images, a tiny network, and the manifest that lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import CodesParams
from pipeline.data.manifest import Manifest
from pipeline.nets.weights import Weights, random
from pipeline.nets.weights.preprocessings import TORCHVISION

torch.set_num_threads(1)

PARAMS: dict[str, Any] = {
    "layers": ["conv3_3-avg", "pool5-flatten"],
    "view": "crop",
    "crop": 64,
    "scales": [64],
    "flip": False,
    "combine": "average",
    "background": [255, 255, 255],
    "reduced_decode": False,
    "precision": "auto",
    "dtype": "float32",
    "device": "cpu",
    "batch_size": 4,
    "memory_mb": 4096,
    "compile": False,
}


def make_params(**changes: Any) -> CodesParams:
    return CodesParams.model_validate(PARAMS | changes)


def make_manifest(root: Path) -> Manifest:
    """The manifest of the image files below `root`, by the contract's rules rather than the library's."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".png", ".jpg")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as image:
            found.append((digest, path.relative_to(root).as_posix(), *image.size))
    found.sort()
    seen: dict[str, int] = {}
    ids = []
    for digest, *_ in found:
        ids.append(f"{digest[:16]}-{seen.setdefault(digest[:16], 0)}")
        seen[digest[:16]] += 1
    n = len(found)
    return Manifest(
        root=root,
        source="folder",
        ids=np.array(ids),
        paths=np.array([f[1] for f in found]),
        labels=np.array([""] * n),
        groups=np.array([""] * n),
        sha256=np.array([f[0] for f in found]),
        widths=np.array([f[2] for f in found]),
        heights=np.array([f[3] for f in found]),
        splits=np.array([["train"] * n]),
        seed=0,
        from_source=(),
    )


def draw(path: Path, seed: int, *, width: int = 80, height: int = 72) -> Path:
    """A picture of smooth noise; equal seeds give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten images: PNG and JPEG, of several sizes, one smaller than the network's input."""
    root = tmp_path / "images"
    sizes = [(80, 72), (64, 64), (120, 70), (50, 40)]
    for i in range(10):
        width, height = sizes[i % len(sizes)]
        draw(root / f"{i}.{'png' if i % 2 else 'jpg'}", i, width=width, height=height)
    return root


@pytest.fixture(scope="session")
def weights() -> Weights:
    return Weights.make("tinyvgg", random.tensors("tinyvgg", 0), TORCHVISION, {"source": "random:0"})


@pytest.fixture
def count_images(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many images went through a network since the last call."""
    from pipeline.codes.forward import Forward

    passed: list[int] = []
    launch = Forward.launch

    def counting(self: Forward, batch: Any) -> Any:
        passed.append(len(batch.sources))
        return launch(self, batch)

    monkeypatch.setattr(Forward, "launch", counting)

    def since_last() -> int:
        total = sum(passed)
        passed.clear()
        return total

    return since_last
