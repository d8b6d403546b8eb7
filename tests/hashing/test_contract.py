"""One contract, every hasher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base.errors import UserError
from pipeline.hashing.base import HASHERS, Hasher, make
from pipeline.hashing.save import read_hasher, write_hasher

torch.set_num_threads(1)

DIM = 48
# Small and quick variants; every member of HASHERS must be here.
PARAMS: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "topk": {"k": 12},
    "median": {},
    "lsh": {"nbits": 16},
    "pca": {"nbits": 16},
    "itq": {"nbits": 16, "iterations": 5},
    "dbn": {"nbits": 16, "hidden": [24], "rbm_epochs": 2, "epochs": 3, "batch": 20, "device": "cpu"},
    "learned": {"nbits": 16, "teacher_bits": 24, "components": 24, "neighbours": 4, "epochs": 3, "batch": 32},
    "supervised": {"nbits": 16, "components": 24, "hidden": 20, "epochs": 3, "batch": 32},
}
# The least number of training rows, where it is more than one.
LEAST_ROWS = {"median": 2, "pca": 17, "itq": 17, "dbn": 17, "learned": 17, "supervised": 17}


def data(rows: int = 120, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """(rows, DIM): four blurred clusters after a ReLU, as codes are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 2, (4, DIM))
    return np.maximum(centres[np.arange(rows) % 4] + rng.normal(0, 1, (rows, DIM)), 0).astype(dtype)


TARGETS = np.arange(120) % 4


def fitted(name: str, codes: np.ndarray | None = None) -> Hasher:
    codes = data() if codes is None else codes
    return make(name, **PARAMS[name]).fit(codes, targets=np.arange(len(codes)) % 4)


each = pytest.mark.parametrize("name", sorted(HASHERS))


def test_every_hasher_is_under_contract() -> None:
    assert set(PARAMS) == set(HASHERS)
    assert all(h.name == name for name, h in HASHERS.items())


@each
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shape_and_dtype(name: str, dtype: type) -> None:
    hasher = fitted(name, data(dtype=dtype))
    bits = hasher.bits(data(7, seed=1, dtype=dtype))
    assert bits.dtype == np.bool_
    assert bits.shape == (7, hasher.nbits)
    assert hasher.nbits % 8 == 0
    assert hasher.bits(data(0)).shape == (0, hasher.nbits)
    assert bits.any() and not bits.all()


@each
def test_the_same_fit_gives_the_same_hasher_and_leaves_its_input_alone(name: str) -> None:
    codes = data()
    kept = codes.copy()
    one, two = fitted(name, codes), fitted(name, codes)
    np.testing.assert_array_equal(codes, kept)
    assert one.arrays().keys() == two.arrays().keys()
    for key, value in one.arrays().items():
        assert value.dtype.kind in "fiu"
        assert value.tobytes() == two.arrays()[key].tobytes()


@each
def test_a_row_alone_has_the_bits_it_has_in_a_batch(name: str) -> None:
    hasher = fitted(name)
    codes = data(67, seed=2)
    together = hasher.bits(codes)
    np.testing.assert_array_equal(np.concatenate([hasher.bits(row[None]) for row in codes]), together)
    np.testing.assert_array_equal(hasher.bits(codes[::-1]), together[::-1])
    np.testing.assert_array_equal(hasher.bits(np.asfortranarray(codes)), together)


@each
def test_float16_codes_have_the_bits_of_their_float32_copies(name: str) -> None:
    hasher = fitted(name)
    codes = data(30, seed=3, dtype=np.float16)
    np.testing.assert_array_equal(hasher.bits(codes), hasher.bits(codes.astype(np.float32)))


@each
def test_save_and_load(name: str, tmp_path: Path) -> None:
    hasher = fitted(name)
    mark = write_hasher(tmp_path / "hasher.h5", hasher, settings={"layer": "pool5"})
    loaded = read_hasher(tmp_path / "hasher.h5")
    assert (loaded.fingerprint, loaded.settings, loaded.hasher.name) == (mark, {"layer": "pool5"}, name)
    assert loaded.hasher.params() == hasher.params() == json.loads(json.dumps(hasher.params()))
    assert loaded.hasher.nbits == hasher.nbits
    np.testing.assert_array_equal(loaded.hasher.bits(data(50, seed=4)), hasher.bits(data(50, seed=4)))
    assert write_hasher(tmp_path / "again.h5", loaded.hasher, settings={"layer": "pool5"}) == mark


@each
def test_a_second_fit_forgets_the_first(name: str) -> None:
    hasher = fitted(name, data(seed=5))
    hasher.fit(data(), targets=TARGETS)
    fresh = fitted(name)
    for key, value in hasher.arrays().items():
        assert value.tobytes() == fresh.arrays()[key].tobytes()


@each
@pytest.mark.parametrize(
    "codes",
    [
        pytest.param(data()[0], id="one row, not a matrix"),
        pytest.param(data()[:, :-8], id="another dimension"),
        pytest.param(data().astype(np.int64), id="integers"),
        pytest.param(np.where(data() > 3, np.nan, data()), id="NaN"),
        pytest.param(np.where(data() > 3, np.inf, data()), id="infinity"),
        pytest.param(data().astype(np.float64) * 1e300, id="beyond float32"),
    ],
)
def test_bad_codes_are_refused(name: str, codes: np.ndarray) -> None:
    hasher = fitted(name)
    with pytest.raises(UserError, match="codes"):
        hasher.bits(codes)
    if codes.shape != data()[:, :-8].shape:
        with pytest.raises(UserError, match="codes"):
            hasher.fit(codes, targets=TARGETS)


@each
def test_too_few_rows_are_refused_and_just_enough_are_not(name: str) -> None:
    least = LEAST_ROWS.get(name, 1)
    with pytest.raises(UserError, match=f"at least {least}"):
        fitted(name, data(least - 1))
    assert fitted(name, data(least)).bits(data(3)).shape[0] == 3


@each
def test_bits_before_fit_is_a_plain_error(name: str) -> None:
    with pytest.raises(RuntimeError, match=name):
        HASHERS[name]().bits(data(1))


@each
def test_a_length_that_fills_no_bytes_is_refused(name: str) -> None:
    params = PARAMS[name]
    if "nbits" in params:
        for nbits in (0, 12, -8):
            with pytest.raises(UserError, match="multiple of 8"):
                make(name, **params | {"nbits": nbits}).fit(data(), targets=TARGETS)
    else:
        with pytest.raises(UserError, match="multiple of 8"):
            make(name, **params).fit(data()[:, :-4])


@each
def test_unknown_and_mistyped_params_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="no parameter colour"):
        make(name, colour=1)
    for key in PARAMS[name]:
        with pytest.raises(UserError, match=key):
            make(name, **{key: None})


def test_an_unknown_hasher_lists_the_known() -> None:
    with pytest.raises(UserError, match="itq"):
        make("md5")
