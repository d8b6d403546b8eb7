"""The one full check that all weights pass: names, shapes, numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts


def check(arch: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Canonical tensors of `arch`, in the network's order, as contiguous float32.

    Weights may stop at any depth, without holes before it: the deepest name that is there says which are needed.

    Raises one UserError that names every tensor that is missing, unexpected, of the wrong shape or dtype, or holds NaN,
    infinity or a negative variance.
    """
    num_classes = _num_classes(tensors)
    known = facts.tensor_shapes(arch, num_classes=num_classes)
    deepest = max((i for i, name in enumerate(known) if name in tensors), default=-1)
    last = list(known)[deepest].split(".")[0].replace("bn", "conv") if deepest >= 0 else None
    needed = facts.tensor_shapes(arch, deepest=last, num_classes=num_classes)

    whole: dict[str, Tensor] = {}
    problems: dict[str, list[str]] = {}
    for name, shape in needed.items():
        if name not in tensors:
            problems.setdefault("missing", []).append(name)
            continue
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            problems.setdefault("of the wrong shape", []).append(f"{name} {tuple(tensor.shape)}, not {shape}")
        elif not tensor.is_floating_point():
            problems.setdefault("not floating point", []).append(f"{name} {tensor.dtype}")
        else:
            whole[name] = tensor.detach().to("cpu", torch.float32).contiguous()
            if not bool(torch.isfinite(whole[name]).all()):
                problems.setdefault("holding NaN or infinity", []).append(name)
            elif name.endswith("running_var") and bool((whole[name] < 0).any()):
                problems.setdefault("holding a negative variance", []).append(name)
    unexpected = sorted(set(tensors) - set(needed))
    if unexpected:
        problems["unexpected"] = unexpected
    if problems:
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items())
        raise UserError(f"these are not whole weights of {arch}: {listed}", see=f"`cnncodes layers --arch {arch}`")
    return whole


def _num_classes(tensors: Mapping[str, Tensor]) -> int:
    """fc8 may have any number of rows; whether its weight and bias agree is checked like any other shape."""
    fc8 = tensors.get("fc8.weight")
    return fc8.shape[0] if fc8 is not None and fc8.ndim == 2 else facts.IMAGENET_CLASSES
