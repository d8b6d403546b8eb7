"""Mutants of weights of every format: the right values or a sentence, where the format can tell; else no other end."""

from __future__ import annotations

import atexit
import functools
import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.base.errors import UserError
from pipeline.nets.weights import WEIGHT_READERS
from pipeline.nets.weights import random as random_weights
from pipeline.nets.weights.sources import from_file, is_canonical, open_file
from tests.nets.weights.test_sources import write
from tests.nets.weights.test_torch_file import in_torchvisions_layout
from tests.reliability.child import Child
from tests.reliability.mutate import mutated
from tests.reliability.registry import Draw

# Their records or their values have checksums.
_CHECKED = frozenset({".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".keras", ".safetensors"})
LEGACY = "-legacy.pth"


def draws(seed: int, count: int | None) -> Iterator[Draw]:
    """Without end, the formats one after another."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tensors = random_weights.tensors("tinyvgg", 0, num_classes=2)
    healthy = {suffix: write(folder / f"healthy{suffix}", tensors).read_bytes() for suffix in WEIGHT_READERS}
    for suffix in WEIGHT_READERS:  # what a first reading imports
        (folder / f"healthy{suffix}").write_bytes(healthy[suffix])
        open_file(folder / f"healthy{suffix}")
    torch.save(in_torchvisions_layout("tinyvgg", tensors), folder / "w.pth", _use_new_zipfile_serialization=False)
    healthy[LEGACY] = (folder / "w.pth").read_bytes()

    def look(draw: str) -> str | None:
        suffix = draw.split()[1]
        kind, data = mutated(healthy[suffix], random.Random(f"{seed} {draw}"))
        path = folder / f"w{suffix}"
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            found = from_file(path, "tinyvgg").tensors if is_canonical(path) else open_file(path).named("tinyvgg")
        except UserError as e:
            return None if str(e) else f"a {kind} is refused without a sentence"
        if suffix not in _CHECKED:
            return None
        other = [n for n in found.keys() & tensors.keys() if not _equal(found[n].numpy(), tensors[n].numpy())]
        return f"a {kind} gives other values of {other[0]} in silence" if other else None

    child = Child(look)
    for i in itertools.count():
        for suffix in healthy:
            draw = f"{i} {suffix}"
            yield Draw(draw, functools.partial(child.ask, draw))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b)
