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
    what `so_far` has of the ones before, and kept after each. What `usable` refuses is not used.
    """
    first = _restored(count, tensors, generator, so_far.found())
    for epoch in range(first, count):
        yield epoch
        so_far.keep(functools.partial(_with_generator, epoch + 1, tensors, generator))


def state(done: int, tensors: Mapping[str, Tensor], **values: Any) -> Part:
    """What is kept of a training after `done` epochs; `values`: plain ones that go with it."""
    return Part(_arrays(tensors), _made_by(tensors) | {"epochs": done, **values})


def usable(count: int, tensors: Mapping[str, Tensor], part: Part | None) -> dict[str, NDArray[Any]] | None:
    """The arrays of a `state` of at most `count` epochs from which a training with such `tensors` can go on.

    None if they have other names, shapes or types, hold a value that is not finite, or come from another version of
    torch or kind of device.
    """
    if part is None or any(part.values.get(name) != own for name, own in _made_by(tensors).items()):
        return None
    done, wanted = part.values.get("epochs"), _arrays(tensors)
    found = {name: np.asarray(array) for name, array in part.arrays.items()}
    if not isinstance(done, int) or not 0 < done <= count or found.keys() != wanted.keys():
        return None
    if any(found[n].shape != a.shape or found[n].dtype != a.dtype or not _finite(found[n]) for n, a in wanted.items()):
        return None
    return found


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(arrays[name]))


def _with_generator(done: int, tensors: Mapping[str, Tensor], generator: torch.Generator) -> Part:
    return state(done, {**tensors, _GENERATOR: generator.get_state()})


def _restored(count: int, tensors: Mapping[str, Tensor], generator: torch.Generator, part: Part | None) -> int:
    """How many epochs are done."""
    arrays = usable(count, {**tensors, _GENERATOR: generator.get_state()}, part)
    if part is None or arrays is None:
        return 0
    try:
        generator.set_state(torch.from_numpy(arrays[_GENERATOR]))
    except RuntimeError:
        return 0
    restore(tensors, arrays)
    return int(part.values["epochs"])


def _made_by(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {"torch": torch.__version__, "device": next(iter(tensors.values())).device.type}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _finite(array: NDArray[Any]) -> bool:
    return bool(np.isfinite(array).all())
