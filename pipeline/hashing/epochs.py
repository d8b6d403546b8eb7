"""Epochs of a training whose state is kept, so that a killed one goes on to the bits of an undisturbed one."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.base.unfinished import Part, SoFar

_GENERATOR = "generator"


def epochs(count: int, tensors: Mapping[str, Tensor], generator: torch.Generator, so_far: SoFar) -> Iterator[int]:
    """Numbers of the epochs that are left of `count`; `tensors` and `generator`, all that an epoch changes, are set to
    what `so_far` has of the ones before, and kept after each.

    What has other names, shapes or types, a value that is not finite, or is of another version of torch, is not used.
    """
    first = _restored(count, tensors, generator, so_far.found())
    for epoch in range(first, count):
        yield epoch
        so_far.keep(functools.partial(_part, epoch + 1, tensors, generator))


def _part(done: int, tensors: Mapping[str, Tensor], generator: torch.Generator) -> Part:
    return Part(_arrays(tensors, generator), {"epochs": done, "torch": torch.__version__})


def _arrays(tensors: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, NDArray[Any]]:
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    return arrays | {_GENERATOR: generator.get_state().numpy()}


def _restored(count: int, tensors: Mapping[str, Tensor], generator: torch.Generator, part: Part | None) -> int:
    """How many epochs are done."""
    if part is None or part.values.get("torch") != torch.__version__:
        return 0
    done, wanted = part.values.get("epochs"), _arrays(tensors, generator)
    found = {name: np.asarray(array) for name, array in part.arrays.items()}
    if not isinstance(done, int) or not 0 < done <= count or found.keys() != wanted.keys():
        return 0
    if any(found[n].shape != a.shape or found[n].dtype != a.dtype or not _finite(found[n]) for n, a in wanted.items()):
        return 0
    try:
        generator.set_state(torch.from_numpy(found.pop(_GENERATOR)))
    except RuntimeError:
        return 0
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(found[name]))
    return done


def _finite(array: NDArray[Any]) -> bool:
    return bool(np.isfinite(array).all())
