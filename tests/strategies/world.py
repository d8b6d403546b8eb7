"""A tiny set of images of three classes, tiny weights, and params that train on them in a second."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import config
from pipeline.config import FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.nets.weights import Preprocessing, Weights
from pipeline.nets.weights import random as random_weights

CLASSES = ("blue", "green", "red")
PREPROCESSING = Preprocessing("bgr", 1.0, (104.0, 117.0, 124.0), (50.0, 50.0, 50.0))

PLAIN: dict[str, Any] = {"multiple": 0.0, "below": "", "every": 0, "augment": [], "labels": {}, "table": []}
PARAMS: dict[str, Any] = {
    "run": ["frozen"],
    "strategies": {
        "direct": {"kind": "direct"},
        "frozen": {"kind": "frozen"},
        "frozen_augmented": {"kind": "frozen", "augment": ["flip"]},
        "finetune": {"kind": "finetune", "multiple": 0.1, "augment": ["crop", "flip"]},
        "partial": {"kind": "finetune", "multiple": 0.1, "below": "conv4_1"},
        "gradual": {"kind": "gradual", "multiple": 0.1, "every": 1},
        "scratch": {"kind": "scratch", "augment": ["flip", "mixup", "cutmix"]},
        "fc": {"kind": "fc"},
        "cnn": {"kind": "cnn"},
        "resnet18": {"kind": "resnet18"},
    },
    "repeats": 1,
    "seed": 3,
    "view": "crop",
    "scale": 36,
    "size": 32,
    "background": [255, 255, 255],
    "max_train": 0,
    "head": "gap",
    "widths": [12, 10],
    "dropout": 0.2,
    "init": "he",
    "optimiser": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "learning_rate": 0.05,
    "scale_rate_with_batch": False,
    "schedule": {"kind": "cosine", "warmup": 0.2, "every": 1, "factor": 0.5},
    "weight_decay": 0.0005,
    "l1": 0.0,
    "decay_biases": False,
    "clip": 5.0,
    "loss": "cross_entropy",
    "label_smoothing": 0.0,
    "mix_alpha": 0.4,
    "noise": 0.0,
    "test_views": 1,
    "views": 0,
    "epochs": 2,
    "batch_size": 8,
    "accumulate": 1,
    "select": "accuracy",
    "patience": 0,
    "keep_every": 0,
    "precision": "auto",
    "device": "cpu",
    "devices": 1,
    "nodes": 1,
    "workers": 0,
    "inference_txt": False,
}


def params(**changes: Any) -> FinetuneParams:
    values = copy.deepcopy(PARAMS) | changes
    values["strategies"] = {name: PLAIN | s for name, s in values["strategies"].items()}
    return config.validate(FinetuneParams, values, where="finetune")


def weights(arch: str = "tinyvgg", *, classes: int = 6, names: tuple[str, ...] | None = None) -> Weights:
    tensors = random_weights.tensors(arch, 1, num_classes=classes)
    return Weights.make(arch, tensors, PREPROCESSING, {"source": "test"}, names)


def manifest(folder: Path, *, n: int = 42, repeats: int = 1) -> Manifest:
    """Images of 40 x 44 pixels, noise about the colour of their class; 24 train, 9 validate, 9 test of 42."""
    rng = np.random.default_rng(0)
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        label = i % 3
        pixels = rng.integers(0, 110, (44, 40, 3))
        pixels[:, :, 2 - label] += 90
        path = folder / f"{i:03d}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        rows.append((hashlib.sha256(path.read_bytes()).hexdigest(), path.name, CLASSES[label]))
    rows.sort()
    digests, paths, labels = (np.array(column, dtype=np.str_) for column in zip(*rows, strict=True))
    splits = np.full((repeats, n), "train", dtype="U5")
    for repeat in range(repeats):
        for name in CLASSES:
            own = np.roll(np.flatnonzero(labels == name), repeat)
            splits[repeat, own[: n // 14]] = "test"
            splits[repeat, own[n // 14 : 2 * (n // 14)]] = "val"
    return Manifest(
        root=folder,
        source="test",
        ids=np.array([f"{d[:16]}-0" for d in digests], dtype=np.str_),
        paths=paths,
        labels=labels,
        groups=np.full(n, "", dtype="U1"),
        sha256=digests,
        widths=np.full(n, 40, dtype=np.int64),
        heights=np.full(n, 44, dtype=np.int64),
        splits=splits,
        seed=0,
        from_source=(),
    )


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def left(cache: Path) -> list[Path]:
    """Checkpoints in the cache. A sanity check, which other tests make, keeps its own for the next one."""
    return [path for path in cache.glob("finetune-runs/*") if not path.name.startswith("sanity-")]
