"""Mutants of HDF5 data sets, which state no digest: they are listed or refused in a sentence."""

from __future__ import annotations

import atexit
import functools
import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from pipeline.base.errors import UserError
from pipeline.config import DatasetParams
from pipeline.data.sources import hdf5
from pipeline.workspace import preset
from tests.reliability.child import Child
from tests.reliability.mutate import mutated
from tests.reliability.registry import Draw


def draws(seed: int, count: int | None) -> Iterator[Draw]:
    """Without end, one layout after another."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    healthy = {
        name: make(folder / "healthy.h5")
        for name, make in {"plain": _plain, "packed": _packed, "texts": _endless}.items()
    }

    def look(draw: str) -> str | None:
        kind, data = mutated(healthy[draw.split()[1]], random.Random(f"{seed} {draw}"))
        path = folder / "set.h5"
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        shutil.rmtree(folder / "images", ignore_errors=True)
        (folder / "images").mkdir()
        try:
            hdf5.read(_params(path), folder / "images")
        except UserError as e:
            return None if str(e) else f"a {kind} is refused without a sentence"
        return None

    child = Child(look)
    for i in itertools.count():
        for name in healthy:
            draw = f"{i} {name}"
            yield Draw(draw, functools.partial(child.ask, draw))


def _params(path: Path) -> DatasetParams:
    whole = preset(DatasetParams)
    return whole.model_copy(update={"source": "hdf5", "root": str(path)})


def _plain(path: Path) -> bytes:
    with h5py.File(path, "w") as file:
        file["images"] = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
        file["labels"] = np.array([b"a", b"b"] * 3)
        file["split"] = np.array([b"train", b"test", b"val"] * 2)
    return path.read_bytes()


def _endless(path: Path) -> bytes:
    _plain(path)
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file["labels"] = np.array(["a", "b"] * 3, dtype=h5py.string_dtype())
    return path.read_bytes()


def _packed(path: Path) -> bytes:
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(0).integers(0, 256, (6, 3 * 8 * 8), dtype=np.uint8)
        held = file.create_dataset("input", data=values, chunks=(2, 192), compression="gzip", shuffle=True)
        held.attrs["lshape"] = (3, 8, 8)
        file["output"] = np.arange(6)[:, None] % 2
        file["output"].attrs["nclass"] = 2
    return path.read_bytes()
