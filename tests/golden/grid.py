"""The settings whose keys are held: each architecture that ships, and a grid about one base."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.golden import doors
from tests.golden.fixed import CAFFE, WEIGHTS_SHA256

ROOT = Path(__file__).parents[2]
# Where it was when the files were made -> where it is. The preset's defaults are what a file says that changes none.
SHIPPED = {
    "params.yaml": "params.yaml",
    "pipeline/preset.yaml": "tests/golden/base.yaml",
    "experiments/cifar10.yaml": "experiments/cifar10.yaml",
    "experiments/gender.yaml": "experiments/gender.yaml",
}
# Of the weights that the demo fetches (`out/weights/weights.safetensors`).
DEMO_SHA256 = "e841bcdfea41c33f316875ec7218abba7b9cc0f56f4169b7574744d85de4dc79"
Plain = dict[str, Any]

_LAST = {"alexnet": ("conv5", "pool5")}
_POOLINGS = ("flatten", "avg", "max", "spp", "gem")
_VIEWS: dict[str, Plain] = {
    "crop": {"view": "crop", "crop": 224, "scales": [256]},
    "squash": {"view": "squash", "crop": 224, "scales": [224]},
    "whole": {"view": "whole", "crop": 224, "scales": [256, 384, 512]},
}
# What is changed of the base, one at a time.
CHANGES: dict[str, Plain] = {
    **{f"crop {side}": {"crop": side, "scales": [side]} for side in (32, 64, 96, 128, 299)},
    "larger before the crop": {"crop": 224, "scales": [232]},
    "several sizes": {"crop": 224, "scales": [224, 256, 320]},
    "several sizes, stacked": {"crop": 224, "scales": [224, 256], "combine": "stack"},
    "flip": {"flip": True},
    "flip, stacked": {"flip": True, "combine": "stack"},
    "black background": {"background": [0, 0, 0]},
    "reduced decoding": {"reduced_decode": True},
    "compiled": {"compile": True},
    **{f"batch of {n}": {"batch_size": n} for n in (1, 8, 64, 4096)},
    "flip in a batch of 3": {"flip": True, "batch_size": 3},
    "another memory": {"memory_mb": 64},
}
_SUFFIXES = ("", "-sigmoid", "-l2", "-sigmoid-l2")


def cases() -> Iterator[tuple[str, Plain]]:
    """Name -> what `doors.records` is asked for."""
    for arch in doors.ARCH_NAMES:
        conv, pool = _LAST.get(arch, ("conv5_2" if arch.startswith(("vgg11", "vgg13")) else "conv5_3", "pool5"))
        specs = [
            f"{conv}-avg",
            f"{conv}.pre-max",
            f"{pool}-flatten",
            "fc6-flatten",
            "fc7-flatten",
            "fc8-avg",
            "prob-avg",
        ]
        yield arch, _asked(arch, layers=specs)
    for arch, side, widths in (("vgg16", 32, (256, 256)), ("tinyvgg", 32, (12, 10)), ("alexnet", 64, (64, 32))):
        name = doors.variant(arch, side, widths)
        yield name, _asked(name, layers=["pool5-avg", "fc7-flatten"], crop=side, scales=[side])
    for name, one in doors.preprocessings().items():
        yield f"preprocessing {name}", _asked("vgg16", normalisation=one)
    for (view, changes), precision, dtype in itertools.product(
        _VIEWS.items(), ("fp32", "bf16", "fp16"), ("float16", "float32")
    ):
        specs = [f"conv5_3-{p}{s}" for p in _POOLINGS for s in _SUFFIXES if (view, p) != ("whole", "flatten")]
        yield (
            f"{view}, {precision}, {dtype}",
            _asked("vgg16", layers=specs, precision=precision, dtype=dtype, **changes),
        )
    for name, changes in CHANGES.items():
        yield name, _asked("vgg16", **changes)
    yield "dense", _asked("vgg16", layers=["fc7-avg", "fc6-max-l2"], **_VIEWS["whole"])
    yield "dense, flipped", _asked("vgg19", layers=["fc7-avg-l2"], flip=True, **_VIEWS["whole"])
    for file, path in SHIPPED.items():
        for precision in ("fp32", "bf16"):
            own = doors.read_codes_section(ROOT / path) | {"precision": precision, "device": "cpu"}
            yield f"{file}, {precision}", {"arch": "vgg16", "normalisation": CAFFE, "sha256": DEMO_SHA256, "codes": own}


def _asked(arch: str, *, normalisation: Plain = CAFFE, **codes: Any) -> Plain:
    return {
        "arch": arch,
        "normalisation": normalisation,
        "sha256": WEIGHTS_SHA256,
        "codes": {"layers": ["conv5_3-avg"], **codes},
    }


# A device that need not be here: a record says it, whatever this machine has.
ELSEWHERE = ("cuda", "mps")
