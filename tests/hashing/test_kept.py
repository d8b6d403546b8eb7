"""A training by epochs that was killed: it goes on where it was, to the bits of an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.base import stopping, unfinished
from pipeline.base.unfinished import Part
from pipeline.collection.build import _fit_short
from pipeline.hashing import base
from pipeline.hashing.adam import Adam
from pipeline.hashing.base import Hasher, make
from pipeline.hashing.dbn.rbm import Rbm
from tests.hashing.test_contract import PARAMS, TARGETS, data

torch.set_num_threads(1)

each = pytest.mark.parametrize("name", ["learned", "supervised", "dbn"])
# 3 epochs, of which `learned` has two rounds; those of `dbn` follow 2 of each of its two machines.
BATCHES = {"learned": 4, "supervised": 4, "dbn": 6}
STEPS = {"learned": 2 * 3 * 4, "supervised": 3 * 4, "dbn": (2 * 2 + 3) * 6}

TRAINING = "hasher/training"  # of `supervised`


class Cut(BaseException):
    """As a kill: nothing handles it."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """[steps made, steps allowed]; what is kept is written at once."""
    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)
    counted = [0, 10**9]

    def count(step: Any) -> Any:
        def cut(*args: Any) -> Any:
            if counted[0] == counted[1]:
                raise Cut
            counted[0] += 1
            return step(*args)

        return cut

    monkeypatch.setattr(Adam, "step", count(Adam.step))
    monkeypatch.setattr(Rbm, "cd1", count(Rbm.cd1))
    yield counted


def fitted(name: str, cache: Path | None, **key: Any) -> Hasher:
    with unfinished.of(cache, {"name": name, **key}) as so_far:
        return base.fit(make(name, **PARAMS[name]), data(), targets=TARGETS, so_far=so_far.part("hasher"))


def same(one: Hasher, other: Hasher) -> None:
    arrays = one.arrays()
    assert arrays.keys() == other.arrays().keys()
    for key, array in other.arrays().items():
        assert array.dtype == arrays[key].dtype and array.tobytes() == arrays[key].tobytes(), key


@each
def test_a_killed_fit_goes_on_to_the_same_bits(name: str, tmp_path: Path, steps: list[int]) -> None:
    whole = fitted(name, None)
    assert steps[0] == STEPS[name]
    for killed_at in range(1, STEPS[name]):
        steps[:] = [0, killed_at]
        with pytest.raises(Cut):
            fitted(name, tmp_path)
        steps[:] = [0, 10**9]
        same(fitted(name, tmp_path), whole)
        assert steps[0] == STEPS[name] - killed_at // BATCHES[name] * BATCHES[name], "begun epochs alone are done again"
    assert not list((tmp_path / unfinished.FOLDER).iterdir())


@each
def test_a_state_of_another_fit_is_not_used(name: str, tmp_path: Path, steps: list[int]) -> None:
    steps[1] = 9
    with pytest.raises(Cut):
        fitted(name, tmp_path, codes="others")
    steps[:] = [0, 10**9]
    same(fitted(name, tmp_path), fitted(name, None))
    assert steps[0] == 2 * STEPS[name]


@pytest.mark.parametrize(
    "change", ["cut", "flipped", "epochs", "no epochs", "torch", "device", "shape", "type", "nan", "name", "generator"]
)
def test_a_damaged_state_is_fitted_from_the_start(change: str, tmp_path: Path, steps: list[int]) -> None:
    steps[1] = 9
    with pytest.raises(Cut):
        fitted("supervised", tmp_path)
    (folder,) = (tmp_path / unfinished.FOLDER).iterdir()
    file = folder / f"{TRAINING}.h5"
    if change in ("cut", "flipped"):
        held = bytearray(file.read_bytes())
        held[len(held) // 2] ^= 1
        file.write_bytes(held[: len(held) // 2] if change == "cut" else held)
    else:
        found = unfinished.SoFar(unfinished._Book(folder), TRAINING).found()
        assert found is not None and found.values["epochs"] == 2
        arrays, values = dict(found.arrays), dict(found.values)
        others: dict[str, dict[str, NDArray[Any]]] = {
            "shape": {"0": arrays["0"][:-1]},
            "type": {"0": arrays["0"].astype(np.float64)},
            "nan": {"0": arrays["0"] * np.float32(np.nan)},
            "name": {"other": arrays["0"]},
            "generator": {"generator": arrays["generator"] * np.uint8(255)},
        }
        arrays |= others.get(change, {})
        told: dict[str, dict[str, Any]] = {
            "epochs": {"epochs": 4},
            "no epochs": {"epochs": "2"},
            "torch": {"torch": "1"},
            "device": {"device": "cuda"},
        }
        values |= told.get(change, {})
        unfinished._write(folder, TRAINING, Part(arrays, values), seconds=1.0, mark="m", of="")
    steps[:] = [0, 10**9]
    again = fitted("supervised", tmp_path)
    assert steps[0] == STEPS["supervised"], change
    same(again, fitted("supervised", None))


@pytest.mark.parametrize(("name", "batches"), [("supervised", 1), ("dbn", 2)])
def test_the_short_code_of_an_index_goes_on_too(name: str, batches: int, tmp_path: Path, steps: list[int]) -> None:
    """Epochs before the kill are not done again."""

    def short() -> Hasher:
        with unfinished.of(tmp_path, {"kind": "short code"}) as so_far:
            return _fit_short(data(), TARGETS, hasher=name, nbits=16, so_far=so_far)[0]

    whole, most = short(), steps[0]
    steps[:] = [0, most - 6]
    with pytest.raises(Cut):
        short()
    steps[:] = [0, 10**9]
    same(short(), whole)
    assert most % batches == 0 and steps[0] == 6
