"""The distance against its definition, and the file against what can befall it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.linalg import sqrtm

from pipeline.advice import reference
from pipeline.advice.reference import WIDTH, Reference, distance, fold, frechet
from pipeline.base import hdf5_files
from pipeline.base.errors import UserError
from tests.advice.world import world


def test_frechet_is_its_formula_and_nought_of_equals() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((200, 5)), random.standard_normal((150, 5)) * [1, 2, 1, 0.5, 1] + 0.3
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-6) == pytest.approx(frechet(b, a), rel=1e-6)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-6)
    assert frechet(a, a + 2.0) == pytest.approx(5 * 4.0, rel=1e-6)


def test_folding_keeps_lengths_and_is_the_same_for_all_codes() -> None:
    random = np.random.default_rng(0)
    codes = random.standard_normal((50, 4 * WIDTH)).astype(np.float32)
    folded = fold(codes * 7).astype(np.float64)
    assert folded.shape == (50, WIDTH)
    # Rows of unit RMS; an orthonormal map to a quarter of the values keeps a quarter of the squares on average.
    assert (folded**2).sum(axis=1).mean() == pytest.approx(WIDTH, rel=0.1)
    assert np.allclose(fold(codes[:3]), folded[:3], atol=2e-3)
    short = np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    assert np.allclose(fold(short), [[3 / np.sqrt(12.5), 4 / np.sqrt(12.5)], [0, 0]], atol=1e-3)


def test_images_of_the_references_kind_are_near_and_others_far() -> None:
    random = np.random.default_rng(0)
    known = np.abs(random.standard_normal((800, 20))).astype(np.float32)
    made = Reference("known", {}, {"pool5-avg": fold(known)})
    same = distance(np.abs(random.standard_normal((400, 20))).astype(np.float32), made, "pool5-avg")
    scale = np.linspace(0.1, 3, 20)
    other = distance((np.abs(random.standard_normal((400, 20))) * scale).astype(np.float32), made, "pool5-avg")
    assert same is not None and other is not None and same.images == other.images == 400
    assert same.ratio == pytest.approx(1.0, abs=0.3) and other.ratio > 5
    assert distance(known[:10], made, "pool5-avg") is None


def test_a_file_comes_back_and_damage_is_noticed(tmp_path: Path) -> None:
    codes, _ = world()
    made = reference.make(codes, name="photos")
    path = tmp_path / "a.h5"
    mark = reference.write(made, path)
    back = reference.read(path)
    assert back.name == "photos" and dict(back.settings) == dict(made.settings)
    assert all(np.array_equal(back.rows[spec], made.rows[spec]) for spec in codes)
    again = tmp_path / "b.h5"
    assert reference.write(back, again) == mark and again.read_bytes() == path.read_bytes()
    with h5py.File(again, "r+") as f:
        f["pool5-avg"][0, 0] += 1
    hdf5_files.state_digest(again)
    with pytest.raises(UserError, match="damaged"):
        reference.read(again)
    for bad in (path.read_bytes()[:1000], b"", b"no HDF5"):
        again.write_bytes(bad)
        with pytest.raises(UserError, match="not a whole reference"):
            reference.read(again)
    with h5py.File(again, "w") as f:
        f.attrs["version"] = 99
    with pytest.raises(UserError, match="version 99"):
        reference.read(again)
    with pytest.raises(UserError, match="unknown reference"):
        reference.read(tmp_path / "none.h5")


def test_rounding_does_not_part_codes_and_weights_do(tmp_path: Path) -> None:
    codes, _ = world()
    made = reference.make(codes, name="photos")
    settings = codes["pool5-avg"].settings
    kept = reference.default_path(settings, tmp_path)
    assert reference.default_path(settings | {"precision": "bf16", "layer": "conv5_3"}, tmp_path) == kept
    assert reference.default_path(settings | {"crop": 224}, tmp_path) != kept
    settings["weights_sha256"] = "cd" * 32
    with pytest.raises(UserError, match="differ in weights_sha256"):
        reference.require_same(made, {"pool5-avg": settings})


def test_too_few_images_are_refused() -> None:
    codes, _ = world(n=30)
    with pytest.raises(UserError, match="30 images are too few"):
        reference.make(codes, name="photos")
