"""Codes of small networks: which, of which images, and how far from the stored values they may lie.

Two runs on one machine are equal to the byte. Processors differ in how they add up and, in bf16, in what they round:
rows are compared by the length of their difference over their own length, below TOLERANCE.
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.golden import doors, fixed

# Measured on a processor with AMX, with oneDNN and torch held to older instructions (ONEDNN_MAX_CPU_ISA and
# ATEN_CPU_CAPABILITY: SSE 4.1, AVX2, AVX-512 with bf16): at most 2e-5 in fp32, 9e-3 in bf16.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
_VARIANT = doors.variant("tinyvgg", 32, (12, 10))
# Name -> architecture, its deepest layer that weights are made for, and keys of the section `codes`.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tinyvgg, all kinds of layers": (
        "tinyvgg",
        "prob",
        {
            "layers": [
                "conv1_1.pre-max", "conv2_2-spp", "conv3_3-gem", "conv5_3-avg-l2", "pool5-flatten",
                "pool5-flatten-sigmoid", "fc6-flatten", "fc7-flatten-l2", "fc8-avg", "prob-avg",
            ],
            "crop": 64,
            "scales": [72],
        },
    ),
    "tinyvgg, two sizes and the mirrored view, stacked": (
        "tinyvgg", "pool5", {"layers": ["pool5-avg"], "crop": 32, "scales": [32, 48], "flip": True, "combine": "stack"},
    ),
    "tinyvgg, whole images, densely": (
        "tinyvgg", "fc7", {"layers": ["fc7-avg", "conv5_3-spp"], "view": "whole", "crop": 64, "scales": [64, 96]},
    ),
    "tinyvgg, squashed": (
        "tinyvgg", "pool5", {"layers": ["pool5-flatten"], "view": "squash", "crop": 64, "scales": [64]},
    ),
    "tinyvgg with other fc layers": (_VARIANT, "fc7", {"layers": ["fc7-flatten"], "crop": 32, "scales": [32]}),
    "vgg11 with batch norm": ("vgg11_bn", "pool4", {"layers": ["pool4-avg"], "crop": 32, "scales": [32]}),
    "alexnet": ("alexnet", "pool5", {"layers": ["conv2.pre-avg", "pool5-avg"], "crop": 64, "scales": [64]}),
}  # fmt: skip
PRECISIONS = ("fp32", "bf16")


def images(folder: Path) -> None:
    """Five pictures of several sizes, one smaller than the networks' input."""
    folder.mkdir(parents=True)
    for i, (width, height) in enumerate([(80, 72), (64, 64), (120, 70), (50, 40), (97, 131)]):
        blocks = (fixed.values(8, 8, 3, seed=i) * 127 + 128).astype(np.uint8)
        picture = blocks.repeat(-(-height // 8), axis=0).repeat(-(-width // 8), axis=1)[:height, :width]
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{i}.png")


def prepare(folder: Path) -> None:
    """`folder` gets images/ and their dataset/."""
    images(folder / "images")
    doors.list_images(folder / "images", folder / "dataset")


def weights(folder: Path, name: str) -> Path:
    arch, deepest, _ = CASES[name]
    path = folder / f"{arch}-{deepest}.safetensors"
    if not path.is_file():
        whole = deepest == "prob"
        made = fixed.tensors(doors.tensor_shapes(arch, deepest=deepest))
        doors.write_weights(path, arch, made, fixed.CAFFE, classes=tuple("abcdef") if whole else None)
    return path


def rows(folder: Path, name: str, precision: str, run: str) -> dict[str, NDArray[np.float32]]:
    """Spec -> (5, d) float32, computed by a store of its own, whose parts then lie in `folder`/RUN/SPEC."""
    torch.set_num_threads(1)
    how = {"dtype": "float32", "precision": precision, "batch_size": 4} | CASES[name][2]
    out = folder / run
    return doors.extract_rows(weights(folder, name), folder / "dataset", how, out, folder / f"{run}-cache")


def distance(found: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """The largest over rows of |found - stored| / |stored|."""
    lengths = np.linalg.norm(stored.astype(float), axis=1)
    return float((np.linalg.norm(found.astype(float) - stored, axis=1) / np.where(lengths > 0, lengths, 1)).max())


def make() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        for number, name in enumerate(CASES):
            for precision in PRECISIONS:
                made = rows(folder, name, precision, f"{number}-{precision}")
                found[f"{name}, {precision}"] = {spec: pack(one) for spec, one in made.items()}
    return {"rows": found}


def pack(values: NDArray[np.float32]) -> dict[str, Any]:
    return {"shape": list(values.shape), "float32": base64.b64encode(values.astype("<f4").tobytes()).decode()}


def unpack(stored: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(stored["float32"]), "<f4").reshape(stored["shape"])
