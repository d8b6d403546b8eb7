"""Reads .pth and .pt: a state dict saved by torch, in torchvision's layout, timm's, or under canonical names."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.nets.weights.foreign import StateDict
from pipeline.nets.weights.preprocessings import TORCHVISION

# What torch's unpickler raises on files that are cut short or made up. It has no exception of its own for them.
_BROKEN = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error)
# Under which a training script's checkpoint keeps the state dict, and what wrappers put before every name.
_NESTS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read(path: Path) -> StateDict:
    """The weights in a file; no code in it is run.

    Raises UserError if the file is missing, broken, holds code or whole modules, or has no state dict.
    """
    return StateDict(state_dict(path), TORCHVISION)


def state_dict(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, without the nesting and prefixes of training scripts. Raises UserError as `read` does."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        first = str(e).strip().splitlines()[0]
        raise UserError(
            f"{path} holds more than weights, or was cut short; it was not loaded ({first})",
            allowed="a state dict: torch.save(model.state_dict(), path), or a .safetensors file",
        ) from None
    except _BROKEN as e:
        first = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UserError(f"{path} is not a whole file of torch's ({first}); it may have been cut short") from None
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path} holds {type(content).__name__}, not a state dict", allowed="name -> tensor")
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise UserError(f"{path} holds other values than tensors: {', '.join(strangers)}", allowed="name -> tensor")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return dict(content)
