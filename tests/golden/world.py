"""A small world of everything that users keep: drawn images of 32 pixels, and all that was made of them.

`make` makes it once, at the commit that `old.json` names, and packs it; `unpack` gives a copy to a test. The functions
below `answers` ask a world, and are the same for the answers that are stored and for those that a test compares.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.golden import doors, fixed, plain

COLOURS = {"blue": (50, 70, 210), "green": (40, 180, 60), "red": (200, 40, 40)}
PER_CLASS = 32
WEIGHTS = "weights.safetensors"
PREPROCESSING = fixed.CAFFE | {"std": [60.0, 60.0, 60.0]}  # values of a few units, as trained networks have them
# Everything is said, so that no preset and no processor has a part in it.
CODES: dict[str, Any] = {
    "view": "crop", "crop": 32, "scales": [32], "precision": "fp32", "dtype": "float16", "device": "cpu",
    "batch_size": 8,
}  # fmt: skip
DATASET: dict[str, Any] = {"repeats": 2, "val_share": 0.2, "test_share": 0.2, "seed": 0}
SPECS = (
    "conv5_3-avg",
    "pool3-flatten",
    "pool5-flatten",
    "pool5-flatten-sigmoid",
    "conv4_3-max-l2",
    "conv3_3-gem",
    "conv2_2-spp",
    "conv5_2.pre-avg",
)
HEADS = (
    *((f"conv5_3-avg-{name}", {"scaling": "standardise"}) for name in ("svm", "svm_cs", "softmax", "knn")),
    *((f"pool3-flatten-{name}", {"scaling": "l2"}) for name in ("svm", "softmax_l1", "softmax_elastic", "knn")),
)
HASHES = (
    "cosine-conv5_3-avg",
    "sigmoid-pool3-flatten",
    "topk32-pool3-flatten",
    "median-pool3-flatten",
    "lsh16-pool3-flatten",
    "pca8-conv5_3-avg",
    "itq8-conv5_3-avg",
    "dbn8-pool3-flatten",
    "learned8-pool3-flatten",
    "supervised8-pool3-flatten",
)
RETRIEVAL: dict[str, Any] = {
    "settings": {
        "dbn": {"visible": "gaussian", "hidden": [24], "rate": 0.01, "code_noise": 1.0, "batch": 16, "device": "cpu"},
        "learned": {"components": 16, "teacher_bits": 16, "neighbours": 4, "epochs": 2, "batch": 16},
        "supervised": {"components": 16, "hidden": 12, "epochs": 2, "batch": 16},
    }
}
INDEXED = "topk32-pool3-flatten"  # whose bits the plain indexes hold
STRATEGIES: dict[str, dict[str, Any]] = {
    "finetune": {"kind": "finetune", "multiple": 0.1, "below": "conv4_1", "augment": ["crop", "flip"]},
    "frozen": {"kind": "frozen"},
    "scratch": {"kind": "scratch", "augment": ["flip"]},
}
TRAINING: dict[str, Any] = {
    "repeats": 1, "view": "crop", "scale": 36, "size": 32, "max_train": 0, "widths": [12, 10], "optimiser": "sgd",
    "learning_rate": 0.01, "epochs": 2, "batch_size": 8, "keep_every": 2, "precision": "fp32", "device": "cpu",
}  # fmt: skip
# Folder -> what its strategies are trained with.
TUNED = {"out": {**TRAINING, "head": "gap"}, "out-vgg": {**TRAINING, "head": "vgg", "keep_every": 0}}
TUNED_LAYER, TUNED_HASH = "pool5-avg", "lsh16-pool5-avg"
CHECKPOINT = "epoch-0002"
INDEX = {"layers": ["conv5_3-avg", "conv3_3-avg"], "hasher": "itq", "nbits": 8, "long_layer": "pool3-flatten"}
# Of the cache: what serves a later run. The memory of hashed files is of one machine, decoded images are of one run.
_KEPT_OF_CACHE = ("codes", "finetune-done", "weights")


def make(archive: Path) -> dict[str, Any]:
    """Packs a new world and returns what it answers."""
    root = Path(tempfile.gettempdir()) / "cnncodes-golden"  # a name in the files that hold where images lay
    root.mkdir()
    before, cache = Path.cwd(), os.environ.get("CNNCODES_CACHE")
    torch.set_num_threads(1)
    try:
        os.chdir(root)
        os.environ["CNNCODES_CACHE"] = str(root / "cache")
        _fill(root)
        _prune(root)
        found = {name: ask(root) for name, ask in ANSWERS.items()}
        _pack(root, archive)
        return found
    finally:
        os.chdir(before)
        if cache is None:
            del os.environ["CNNCODES_CACHE"]
        else:
            os.environ["CNNCODES_CACHE"] = cache
        shutil.rmtree(root)


def unpack(archive: Path, into: Path) -> Path:
    """The world, in a folder that is there; its cache is `into`/cache."""
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
    return into


def _fill(root: Path) -> None:
    draw(root / "images", PER_CLASS, first=0)
    draw(root / "new", 1, first=PER_CLASS)
    doors.write_weights(root / WEIGHTS, *fixed.source(), PREPROCESSING, classes=tuple("abcdef"))
    doors.extract("images", "out", SPECS, weights=WEIGHTS, codes=CODES, dataset=DATASET)
    for name, how in HEADS:
        spec, _, head = name.rpartition("-")
        doors.fit(root / "out", spec, head, **how)
    for spec in HASHES:
        doors.retrieve(root / "out", spec, RETRIEVAL)
        told = json.loads((root / "out" / "retrieval" / spec / "metrics.json").read_text())
        if "skipped" in told:
            raise SystemExit(f"{spec}: {told['skipped']}")
    ids, packed = doors.saved_bits(root / "out" / "retrieval" / INDEXED)
    for kind, how in fixed.INDEXES.items():
        columns = {"label": np.array([f"label {i % 3}" for i in range(len(ids))])}
        about: dict[str, Any] = {"made_by": {"spec": INDEXED}, "columns": columns}
        doors.write_index(root / "indexes" / kind, kind, how, packed=packed, ids=np.array(ids), **about)
    doors.build("images", "my.index", WEIGHTS, CODES, **INDEX)
    for out, how in TUNED.items():
        doors.finetune("out", out, STRATEGIES if out == "out" else {"finetune": STRATEGIES["finetune"]}, **how)
    codes = CODES | {"precision": "fp32"}
    doors.measure_tuned(
        root / "out" / "finetune" / "finetune",
        root / "out" / "tuned",
        layer=TUNED_LAYER,
        hashes=[TUNED_HASH],
        codes=codes,
    )
    doors.make_reference(root / "reference.h5", root / "out", ["conv5_3-avg", "pool3-flatten"])


def draw(folder: Path, per_class: int, *, first: int) -> None:
    """FOLDER/COLOUR/NUMBER.png: blocks of 8 pixels about the colour."""
    for c, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + per_class):
            noise = fixed.values(4, 4, 3, seed=100 * c + i) * 60
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            large = pixels.repeat(8, axis=0).repeat(8, axis=1)
            Image.fromarray(large).save(folder / name / f"{i:02d}.png", optimize=True)


def _prune(root: Path) -> None:
    for path in (root / "cache").iterdir():
        if path.name not in _KEPT_OF_CACHE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted(root.rglob("live-curves")):
        shutil.rmtree(path)


def _pack(root: Path, archive: Path) -> None:
    """Equal worlds give equal archives: no times, no owners, sorted."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            if not path.is_file():
                continue
            one = tarfile.TarInfo(path.relative_to(root).as_posix())
            one.size, one.mode = path.stat().st_size, 0o644
            with path.open("rb") as data:
                tar.addfile(one, data)
    with archive.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as out:
        out.write(packed.getvalue())


# --- answers, as plain values


def _array(values: Any) -> dict[str, Any]:
    return {"dtype": values.dtype.str, "shape": list(values.shape), "sha256": plain.digest(values)}


def some_images(root: Path) -> list[Path]:
    return [root / "images" / name / f"{i:02d}.png" for name in COLOURS for i in (0, 7)]


def new_images(root: Path) -> list[Path]:
    return [root / "new" / name / f"{PER_CLASS}.png" for name in COLOURS]


def manifest(root: Path) -> dict[str, Any]:
    return doors.read_manifest(root / "out" / "dataset")


def codes(root: Path) -> dict[str, Any]:
    """Spec -> key and rows; of the tuned network and its source too."""
    found = {}
    for folder in sorted(root.glob("out/**/codes.json")):
        ids, rows, key = doors.read_codes(folder.parent)
        found[folder.parent.relative_to(root).as_posix()] = {"ids": len(ids), "key": key, "rows": _array(rows)}
    return found


def heads(root: Path) -> dict[str, Any]:
    found = {}
    for name, _ in HEADS:
        labels, scores = doors.head_answers(root / "out", name)
        found[name] = {"labels": "".join(label[0] for label in labels), "scores": scores[:8].tolist()}
    return found


def heads_on_new_images(root: Path) -> dict[str, Any]:
    """Through the network."""
    return {name: doors.head_labels(root / "out" / "heads" / name, new_images(root)) for name, _ in HEADS}


def bits(root: Path) -> dict[str, Any]:
    """Of every hash but cosine: the bits as saved."""
    return {
        spec: _array(doors.saved_bits(root / "out" / "retrieval" / spec)[1])
        for spec in HASHES
        if not spec.startswith("cosine")
    }


def indexes(root: Path) -> dict[str, Any]:
    found = {}
    for kind in fixed.INDEXES:
        folder = root / "indexes" / kind
        ids, packed, columns = doors.index_rows(folder)
        queries = packed[::24] ^ np.uint8(0b00010001)
        found[kind] = {
            "ids": len(ids),
            "packed": _array(packed),
            "label": plain.sha256("".join(columns["label"].tolist()).encode()),
            "nearest": doors.search_index(folder, queries, 6),
            "within": doors.search_index_within(folder, queries, 40),
        }
    return found


def collection(root: Path) -> dict[str, Any]:
    """Method -> neighbours of images of the collection, by id and by file."""
    folder = root / "my.index"
    ids = doors.index_rows(folder)[0]
    return {
        method: {
            "by id": {i: doors.search(folder, i, method, 5) for i in ids[::40]},
            "by file": [doors.search(folder, image, method, 5) for image in some_images(root)[:2]],
        }
        for method in doors.collection_methods(folder)
    }


def collection_and_new_images(root: Path) -> dict[str, Any]:
    """Method -> neighbours of an image that is not in the collection."""
    folder = root / "my.index"
    return {m: doors.search(folder, new_images(root)[0], m, 5) for m in doors.collection_methods(folder)}


def tuned(root: Path) -> dict[str, Any]:
    """Probabilities by each trained network, and by a checkpoint that was kept."""
    images = [*some_images(root), *new_images(root)]
    found = {}
    for folder in strategies(root):
        name = folder.relative_to(root).as_posix()
        found[name] = doors.tuned_answers(folder, images).tolist()
    kept = root / "out" / "finetune" / "finetune"
    return found | {CHECKPOINT: doors.tuned_answers(kept, images, checkpoint=CHECKPOINT).tolist()}


def curves(root: Path) -> dict[str, Any]:
    return {folder.relative_to(root).as_posix(): doors.tuned_curves(folder) for folder in strategies(root)}


def strategies(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/finetune/*/head.safetensors"))


def new_codes(root: Path) -> dict[str, Any]:
    """Of new images, made as the stored ones were."""
    return {
        spec: doors.embed(root / WEIGHTS, root / "out" / "codes" / spec, new_images(root)).astype(float).tolist()
        for spec in ("conv5_3-avg", "conv4_3-max-l2")
    }


def distances(root: Path) -> dict[str, Any]:
    return {s: doors.distance_to(root / "reference.h5", root / "out", s) for s in ("conv5_3-avg", "pool3-flatten")}


ANSWERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "manifest": manifest,
    "codes": codes,
    "heads": heads,
    "heads_on_new_images": heads_on_new_images,
    "bits": bits,
    "indexes": indexes,
    "collection": collection,
    "collection_and_new_images": collection_and_new_images,
    "tuned": tuned,
    "curves": curves,
    "new_codes": new_codes,
    "distances": distances,
}
