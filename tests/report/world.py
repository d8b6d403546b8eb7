"""A whole `out/` of made-up results, small and exactly known, for the report to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.base import json_files
from pipeline.base.versions import VERSIONS
from pipeline.codes import part, stated
from pipeline.codes.reader import Codes
from pipeline.config import HashSpec, HeadsParams, LayerSpec, ReportParams
from pipeline.data.manifest import Failure, Manifest
from pipeline.figures.inputs import Wanted
from pipeline.figures.run import compute
from pipeline.report import build
from pipeline.retrieval import run as evaluation
from tests.retrieval.world import params as retrieval_params

SETTINGS: dict[str, Any] = {
    "arch": "vgg16",
    "weights_sha256": "ab" * 32,
    "view": "crop",
    "crop": 96,
    "scales": [96],
    "background": [255, 255, 255],
    "precision": "fp32",
    "dtype": "float16",
}
QUALITY = {"conv3_3": 0.5, "conv4_3": 0.8, "conv5_1": 1.2, "conv5_2": 1.3, "conv5_3": 1.25, "pool5": 1.0}


def heads_params(heads: Sequence[str] = ("svm", "softmax", "knn")) -> HeadsParams:
    return HeadsParams.model_validate(
        {
            "heads": list(heads),
            "scaling": "l2",
            "c_grid": [0.1, 1.0, 10.0],
            "k_grid": [1, 5],
            "class_weight": "none",
            "memory_mb": 64,
            "seed": 0,
        }
    )


def report_params(**changes: Any) -> ReportParams:
    values = {
        "selection": "accuracy",
        "learning_curve": [],
        "map_images": 30,
        "map_method": "pca",
        "alpha": 0.05,
        "seed": 0,
    }
    return ReportParams.model_validate(values | changes)


def make_images(root: Path, names: Sequence[str], *, size: int = 24) -> None:
    """One flat-coloured PNG a name, each with bytes of its own."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size + 8), (i % 256, i // 256, 90)).save(path)


def make_manifest(
    root: Path, names: Sequence[str], labels: Sequence[str], *, repeats: int = 5, fixed_test: bool = False
) -> Manifest:
    """A manifest of images that are there; a quarter is test, drawn anew in each repeat unless `fixed_test`."""
    shas = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names]
    ids = [f"{sha[:16]}-{shas[:i].count(sha)}" for i, sha in enumerate(shas)]
    order = np.argsort(ids)
    n = len(names)
    splits = []
    for repeat in range(repeats):
        rank = np.random.default_rng(0 if fixed_test else repeat).permutation(n) / n
        splits.append(np.select([rank < 0.25, rank < 0.4], ["test", "val"], "train"))
    sizes = [Image.open(root / names[i]).size for i in order]
    return Manifest(
        root=root,
        source="folder",
        ids=np.array([ids[i] for i in order]),
        paths=np.array([names[i] for i in order]),
        labels=np.array([labels[i] for i in order]),
        groups=np.array([""] * n),
        sha256=np.array([shas[i] for i in order]),
        widths=np.array([w for w, _ in sizes]),
        heights=np.array([h for _, h in sizes]),
        splits=np.array(splits),
        seed=0,
        from_source=("test",) if fixed_test else (),
    )


def write_codes(folder: Path, manifest: Manifest, spec: str, dim: int) -> None:
    """Codes that cluster by class."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(spec.encode()).digest()[:4], "big"))
    centres = random.standard_normal((max(len(manifest.classes), 1), dim))
    rows = 0.6 * centres[np.maximum(manifest.targets, 0)] + random.standard_normal((len(manifest), dim))
    store_codes(folder, manifest, spec, np.maximum(rows, 0).astype(np.float16))


def store_codes(folder: Path, manifest: Manifest, spec: str, rows: NDArray[np.floating[Any]]) -> None:
    """rows (n, dim) float16 or float32, in the order of the manifest."""
    settings = SETTINGS | LayerSpec.parse(spec).model_dump() | {"dtype": str(rows.dtype)}
    folder.mkdir(parents=True, exist_ok=True)
    names = manifest.ids.astype("S")
    checksum = part.write(folder / "part-00000.h5", names, rows, spec=spec, settings=settings, content="")
    about = {
        "version": VERSIONS["codes"],
        "spec": spec,
        "dim": rows.shape[1],
        "dtype": str(rows.dtype),
        "rows": len(rows),
        "settings": settings,
        "fingerprint": json_files.fingerprint(settings),
        "parts": {"part-00000.h5": {"rows": len(rows), "checksum": checksum}},
    }
    json_files.write(folder / stated.INDEX, about)


def write_head(
    folder: Path, manifest: Manifest, spec: str, head: str, *, dim: int, sharpness: float, probabilities: bool = False
) -> None:
    """Scores that are right the more often the higher `sharpness` is, and the metrics that follow from them."""
    classes = manifest.classes
    folder.mkdir(parents=True, exist_ok=True)
    repeats = []
    with h5py.File(folder / "predictions.h5", "w") as file:
        attributes = {"version": VERSIONS["predictions"], "spec": spec, "head": head}
        file.attrs.update(attributes | {"classes": json.dumps(classes), "probabilities": probabilities})
        for repeat in range(manifest.repeats):
            test = manifest.rows("test", repeat)
            true = manifest.targets[test]
            random = np.random.default_rng([repeat, len(head), len(spec)])
            scores = random.standard_normal((len(test), len(classes))) + sharpness * np.eye(len(classes))[true]
            if probabilities:
                scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            group = file.create_group(f"repeat_{repeat}")
            group["ids"], group["true"] = manifest.ids[test].astype("S"), true
            group["scores"] = scores.astype(np.float32)
            right = scores.argmax(axis=1) == true
            accuracy = float(right.mean())
            repeats.append(
                {
                    "repeat": repeat,
                    "n_train": len(manifest.rows("train", repeat)),
                    "n_val": len(manifest.rows("val", repeat)),
                    "n_test": len(test),
                    "chosen": {"k": 5} if head == "knn" else {"C": 10.0 ** (repeat % 2)},
                    "accuracy": accuracy,
                    "mean_class_recall": accuracy * 0.97,
                    "class_recall": [float(right[true == c].mean()) for c in range(len(classes))],
                    "top5": min(1.0, accuracy + 0.2),
                    "macro_f1": accuracy * 0.96,
                    "log_loss": 1.5 - accuracy if probabilities else None,
                    "fit_s": 1e-4 * dim * (1 + 0.1 * repeat),
                    "predict_s": 1e-5 * dim,
                }
            )
    largest = max(int((manifest.targets == i).sum()) for i in range(len(classes))) / len(manifest)
    record = {
        "spec": spec,
        "head": head,
        "classes": len(classes),
        "dim": dim,
        "bytes_per_code": 2 * dim,
        "repeats": repeats,
        "mean": {},
        "std": {},
        "majority": {"accuracy": largest, "mean_class_recall": 1 / len(classes)},
    }
    json_files.write(folder / "metrics.json", record)


def make_world(
    out: Path,
    manifest: Manifest,
    specs: Sequence[str],
    heads: Sequence[str] = ("svm", "softmax", "knn"),
    *,
    failures: Sequence[Failure] = (),
    sharpness: float | None = None,
) -> None:
    """dataset/, codes/ and heads/ in `out`. A layer's sharpness is in QUALITY unless one is given for all."""
    manifest.write(out / "dataset", failures)
    for spec in specs:
        layer = LayerSpec.parse(spec).layer
        dim = 4608 if "flatten" in spec else 256 if layer.startswith("conv3") else 512
        write_codes(out / "codes" / spec, manifest, spec, dim)
        if not manifest.classes:
            continue
        for i, head in enumerate(heads):
            quality = (QUALITY[layer] * 1.6 - 0.25 * i) if sharpness is None else sharpness
            folder = out / "heads" / f"{spec}-{head}"
            write_head(folder, manifest, spec, head, dim=dim, sharpness=quality, probabilities=head == "softmax")


def make_hashes(out: Path, manifest: Manifest, names: Sequence[str]) -> None:
    """retrieval/ in `out`, of its codes."""
    params = retrieval_params(specs=list(names), settings={"dbn": {"hidden": []}})
    for name in names:
        spec = HashSpec.parse(name)
        codes = Codes.open(out / "codes" / spec.codes.name)
        evaluation.write(evaluation.evaluate(spec, codes, manifest, params), codes, out / "retrieval" / name)


def make_page(out: Path, params: ReportParams, *, heads: HeadsParams, **wanted: Unpack[Wanted]) -> Path:
    """figures/ and report/ in `out`; returns the page."""
    compute(out, params, heads=heads, **wanted)
    return build(out)
