"""Fixed arrays, and every kind of file that the product writes from them: no network runs, nothing is fitted.

Values come from whole numbers by arithmetic that is exact everywhere, not from a random generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.golden import doors
from tests.golden.plain import sha256

CAFFE: dict[str, Any] = {
    "channels": "bgr",
    "scale": 1.0,
    "mean": [103.939, 116.779, 123.68],
    "std": [1.0, 1.0, 1.0],
}
WEIGHTS_SHA256 = "0123456789abcdef" * 4


def values(*shape: int, seed: int = 0, dtype: str = "float32") -> NDArray[Any]:
    """In [-1, 1), multiples of 2^-10 (exact in float16 too), without an order that shows."""
    i = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(1 + 1_000_003 * seed)
    i = (i * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(53)  # 11 bits, by Knuth's multiplicative hash
    return ((i.astype(np.float64) - 1024) / 1024).reshape(shape).astype(dtype)


def tensors(shapes: dict[str, tuple[int, ...]], *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Of a network, uniform with He's variance, 2 / fan-in; norms near the identity, biases 0."""
    return {name: tensor(name, shape, seed=seed) for name, shape in shapes.items()}


def tensor(name: str, shape: tuple[int, ...], *, seed: int = 0) -> NDArray[np.float32]:
    if len(shape) < 2:
        scale = name.endswith("running_var") or (name.startswith("bn") and name.endswith(".weight"))
        return np.ones(shape, np.float32) if scale else np.zeros(shape, np.float32)
    own = int(sha256(name.encode())[:6], 16) + seed
    limit = np.float32(2.0 ** round(math.log2(math.sqrt(6 / math.prod(shape[1:])))))
    return values(*shape, seed=own) * limit


def record(**changes: Any) -> dict[str, Any]:
    """Of codes of 16 values: pool5 of the small network, averaged."""
    found = doors.records(
        arch="tinyvgg", weights_sha256=WEIGHTS_SHA256, normalisation=CAFFE, codes={"crop": 32, "scales": [36]} | changes
    )
    return next(iter(found.values()))


def digests(count: int) -> list[str]:
    """Ascending, of that many images."""
    return sorted(sha256(f"image {i}".encode()) for i in range(count))


def ids(count: int) -> NDArray[np.str_]:
    return np.array([f"{d[:16]}-0" for d in digests(count)])


def packed(count: int, nbits: int) -> NDArray[np.uint8]:
    """Rows about two centres, far from each other."""
    bits = values(count, nbits) > 0.8
    bits[1::2] = ~bits[1::2]
    return np.packbits(bits, axis=1)


def _store(folder: Path) -> None:
    for dtype in ("float16", "float32"):
        doors.write_store(folder, record(dtype=dtype), digests(7), values(7, 16, dtype=dtype), {"inputs_at_once": 4})


def _codes(folder: Path) -> None:
    for spec in ("pool5-avg", "pool5-avg-sigmoid", "pool5-avg-l2"):
        one = record(layers=[spec])
        doors.write_codes(
            folder, one, ids(7), digests(7), values(7, 16, dtype="float16"), scratch=folder.parent / "scratch"
        )


def _manifest(folder: Path) -> None:
    n, splits = 6, np.array([["train", "val", "test"] * 2, ["test", "train", "train"] * 2])
    columns = {
        "ids": ids(n),
        "paths": np.array(["a.jpg", "=b.png", "c/ü.jpg", "d,e.jpg", 'f"g".png', "-h.gif"]),
        "labels": np.array(["cat", "dog", "", "=cat", "dog", "@home"]),
        "groups": np.array(["", "g1", "g1", "", "", "'g"]),
        "sha256": np.array(digests(n)),
        "widths": np.arange(1, n + 1) * 10,
        "heights": np.arange(1, n + 1) * 20,
        "splits": splits,
        "decoders": np.array([1, 1, 2, 1, 3, 1]),
    }
    about = {"root": "photographs", "source": "folder", "seed": 3, "from_source": ("test",)}
    failures = [("x.jpg", "it is cut short", "broken"), ("+y", "another\nline", "left_out")]
    doors.write_manifest(folder, columns, about, failures)


INDEXES: dict[str, dict[str, Any]] = {
    "exact": {},
    "multihash": {"tables": 2, "table_bits": 8, "flips": 1},
    "ivf": {"lists": 2, "probes": 1},
    "hnsw": {"links": 8, "build_width": 16, "search_width": 16},
}


def _columns(start: int, stop: int) -> dict[str, NDArray[Any]]:
    return {
        "label": np.array([f"klasse {i % 3} é" for i in range(start, stop)]),
        "root": np.arange(start, stop) % 2,
        "codes conv5_3-avg": values(stop, 4, dtype="float16")[start:],
    }


def _index(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        rows, names = packed(90, 24), ids(90)
        rest: dict[str, Any] = {
            "made_by": {"hasher": "itq", "spec": "pool5-avg", "nbits": 24},
            "columns": _columns(0, 84),
        }
        doors.write_index(folder / "my.index", kind, INDEXES[kind], packed=rows[:84], ids=names[:84], **rest)
        doors.add_to_index(folder / "my.index", rows[84:], names[84:], _columns(84, 90))

    return write


# What each hasher learned, on codes of 16 values: its parameters and arrays.
HASHERS: dict[str, tuple[dict[str, Any], dict[str, NDArray[Any]]]] = {
    "sigmoid": ({}, {"dim": np.array(16), "shortest": np.array(2.5)}),
    "topk": ({"k": 4}, {"dim": np.array(16)}),
    "median": ({}, {"medians": values(16)}),
    **{
        name: (params, {"weights": values(16, 8), "offset": values(8, dtype="float64")})
        for name, params in {
            "lsh": {"nbits": 8, "seed": 1},
            "pca": {"nbits": 8, "seed": 1},
            "itq": {"nbits": 8, "power": 0.5, "iterations": 5, "seed": 1},
            "learned": {"nbits": 8, "components": 12, "epochs": 3, "seed": 1},
        }.items()
    },
    "dbn": (
        {"nbits": 8, "hidden": [12], "visible": "gaussian", "seed": 1, "device": "cpu"},
        {
            "mean": values(16, dtype="float64"),
            "deviation": 2 + values(16, dtype="float64", seed=1),
            "weights0": values(16, 12),
            "bias0": values(12, dtype="float64"),
            "weights1": values(12, 8),
            "bias1": values(8, dtype="float64"),
        },
    ),
    "supervised": (
        {"nbits": 8, "hidden": 12, "components": 10},
        {
            "weights0": values(16, 12),
            "bias0": values(12, dtype="float64"),
            "weights1": values(12, 8),
            "bias1": values(8, dtype="float64"),
        },
    ),
}

_LINEAR = {"weights": values(16, 3), "intercepts": values(3)}
# What each head learned, on codes of 16 values and three classes.
HEADS: dict[str, dict[str, NDArray[Any]]] = {
    **dict.fromkeys(("svm", "svm_cs", "softmax", "softmax_l1", "softmax_elastic"), _LINEAR),
    "knn": {"units": values(6, 16), "y": np.arange(6) % 3, "votes": np.ones(3), "k": np.array(2)},
}
_NONE = np.zeros(0, np.float32)


def _hasher(name: str) -> Callable[[Path], None]:
    return lambda folder: doors.write_hash_file(folder / "hasher.h5", name, *HASHERS[name], record())


def _head(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        scalings = {"l2": (_NONE, _NONE), "standardise": (values(16), 2 + values(16, seed=1)), "none": (_NONE, _NONE)}
        for kind, (shift, factor) in scalings.items():
            about: dict[str, Any] = {"classes": ("blue", "green", "größer"), "record": record()}
            path = folder / kind / "model.h5"
            doors.write_head(path, name, HEADS[name], scaling=(kind, shift, factor), **about)

    return write


def source() -> tuple[str, dict[str, NDArray[np.float32]]]:
    """A whole small network with six classes."""
    return "tinyvgg", tensors(doors.tensor_shapes("tinyvgg"))


def _tuned(kind: str) -> Callable[[Path], None]:
    return lambda folder: doors.write_tuned(folder, kind, tensor, source(), CAFFE)


def _weights(folder: Path) -> None:
    doors.write_weights(folder / "whole.safetensors", *source(), CAFFE, classes=tuple("abcdef"))
    cut = tensors(doors.tensor_shapes("tinyvgg", deepest="pool5"))
    doors.write_weights(folder / "cut.safetensors", "tinyvgg", cut, doors.preprocessings()["torchvision"])


def _checkpoint(folder: Path) -> None:
    nested = {
        "model": {"net.conv1_1.weight": values(4, 3, 3, 3)},
        "optimiser": [{"momentum": values(4), "step": 3, "rate": 0.1}, None],
    }
    doors.write_checkpoint(folder / "epoch-0002.safetensors", nested, {"strategy": "finetune", "epoch": 2})


def _training_tables(folder: Path) -> None:
    lines = [
        {"epoch": e, "step": 3 * e, "train_loss": 1 / e, "train_accuracy": 0.5, "val_loss": None, "val_accuracy": None}
        | {"rates": {"conv1_1": 0.001 * e, "all the rest (biases and norms)": None if e == 1 else 0.01}}
        for e in (1, 2)
    ]
    shown = [(ids(4), np.arange(4) % 3, np.abs(values(4, 3)))]
    doors.write_training_tables(folder, [lines, lines[:1]], ("blue", "=green", "red, or so"), shown)


# What stands in bytes.json: name -> how it is written into an empty folder.
WRITTEN: dict[str, Callable[[Path], None]] = {
    "store": _store,
    "codes": _codes,
    "manifest": _manifest,
    **{f"index-{kind}": _index(kind) for kind in INDEXES},
    **{f"hasher-{name}": _hasher(name) for name in HASHERS},
    "bits": lambda folder: doors.write_bits_file(folder / "bits.h5", ids(9), values(9, 24) > 0),
    **{f"head-{name}": _head(name) for name in HEADS},
    **{f"tuned-{kind}": _tuned(kind) for kind in ("gap", "vgg", "direct", "cnn")},
    "weights": _weights,
    "checkpoint": _checkpoint,
    "training": _training_tables,
    "reference": lambda folder: doors.write_reference(
        folder / "reference.h5",
        "golden",
        {"arch": "tinyvgg", "crop": 32},
        {"pool5-avg": values(8, 16, dtype="float16")},
    ),
}
