"""Nested values with tensors in them as one safetensors file: tensors by their path, all else as JSON in the metadata.

No code runs when one is read, and a file is whole or refused: the metadata holds a digest of everything in it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.base import json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS

_KEY = "cnncodes"
_OS_ERROR = re.compile(r"os error (\d+)")


def write(path: Path, tree: Any, *, about: Mapping[str, Any] | None = None) -> None:
    """Over the file at `path`, which has its rights already. `tree`: dicts, lists and tuples of tensors, numbers, texts
    and None; `about`: plain values that `head` gives without the tensors. Raises OSError."""
    tensors: dict[str, Tensor] = {}
    content = {
        "version": VERSIONS["checkpoint"],
        "about": dict(about or {}),
        "tree": _encoded(tree, "", tensors),
    }
    content["sha256"] = _digest(content, tensors)
    mode = path.stat().st_mode if path.exists() else None
    try:
        save_file(tensors, path, metadata={_KEY: json_files.canonical(content)})
    except SafetensorError as e:
        # The library tells the system's error in words alone.
        found = _OS_ERROR.search(str(e))
        raise (OSError(int(found[1]), str(e)) if found else e) from None
    if mode is not None:
        path.chmod(mode)  # save_file puts a file of its own there, which only its owner may read


def read(path: Path) -> Any:
    """The tree, its tensors on the CPU. Raises UserError if the file is missing, broken or of another version."""
    content = _content(path)
    try:
        tensors = load_file(path)
        if _digest({key: value for key, value in content.items() if key != "sha256"}, tensors) != content["sha256"]:
            raise _broken(path, "its digest differs")
        return _decoded(content["tree"], tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as e:
        raise _broken(path, e) from None


def head(path: Path) -> tuple[dict[str, Any], str]:
    """(`about`, digest of all that the file should hold), from its first bytes alone. Raises UserError as `read`."""
    content = _content(path)
    return content["about"], content["sha256"]


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"unknown checkpoint {path}", allowed="a file that `cnncodes checkpoints FOLDER` lists")
    try:
        with safe_open(path, framework="pt") as f:
            content: dict[str, Any] = plain_json.loads((f.metadata() or {})[_KEY])
        version = content["version"]
        ok = isinstance(content["about"], dict) and isinstance(content["sha256"], str) and "tree" in content
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise _broken(path, e) from None
    if version != VERSIONS["checkpoint"]:
        raise UserError(f"{path} is a checkpoint of version {version!r}", allowed=[VERSIONS["checkpoint"]])
    if not ok:
        raise _broken(path, "its metadata is of another form")
    return content


def _broken(path: Path, why: object) -> UserError:
    words = "it is of another kind, or cut" if isinstance(why, SafetensorError) else " ".join(str(why).split())[:200]
    return UserError(
        f"{path} is not a whole checkpoint ({words})",
        allowed="a file that `cnncodes checkpoints FOLDER` lists; if this is one of them, it is damaged: remove it",
    )


def _encoded(value: Any, at: str, tensors: dict[str, Tensor]) -> Any:
    """JSON of a value; its tensors go into `tensors` by their path. Dicts keep their order and keys of any type."""
    if isinstance(value, Tensor):
        return _put(value, at or "/", tensors)
    if isinstance(value, Mapping):
        return {"dict": [[key, _encoded(own, f"{at}/{key}", tensors)] for key, own in value.items()]}
    if isinstance(value, list | tuple):
        found = [_encoded(own, f"{at}/{i}", tensors) for i, own in enumerate(value)]
        return found if isinstance(value, list) else {"tuple": found}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{at} of a checkpoint is a {type(value).__name__}")


def _put(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A tensor as it lies in memory: one whose channels lie last comes back so, and steps go on to the same bits."""
    own = tensor.detach().cpu()
    strides = own.stride()
    order = sorted(range(own.dim()), key=lambda axis: -strides[axis])
    dense = own.permute(order)
    if not dense.is_contiguous():
        order, dense = list(range(own.dim())), own.contiguous()
    tensors[name] = dense.clone()  # two of them may share memory, which the format doesn't allow
    return {"tensor": name, "order": order}


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(own, tensors) for own in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor", "order"}:
        order = value["order"]
        # Copied to where torch puts a tensor: sums of one that begins elsewhere in a cache line may round otherwise.
        return tensors[value["tensor"]].permute([order.index(axis) for axis in range(len(order))]).clone()
    ((tag, own),) = value.items()
    if tag == "dict":
        return {key: _decoded(one, tensors) for key, one in own}
    if tag == "tuple":
        return tuple(_decoded(one, tensors) for one in own)
    if tag == "float":
        return float(own)
    raise ValueError(f"unknown mark {tag!r}")


def _digest(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the JSON, and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json_files.canonical(content).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
