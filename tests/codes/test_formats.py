"""Exports, read back by each format's own reader."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.codes import FORMATS, Codes, export, formats
from tests.codes.conftest import make_manifest
from tests.codes.test_settings import made


@pytest.mark.network
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("labelled", [True, False])
def test_round_trip(to: str, labelled: bool, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_BLOCK_BYTES", 3 * 64 * 2)  # three rows at a time
    manifest = make_manifest(images)
    if labelled:
        manifest = dataclasses.replace(manifest, labels=np.array(["a", "b"] * 5))
    rows = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float16)
    settings = made(layers=["pool5-flatten"]).as_json()
    codes = Codes.from_arrays(manifest.ids, rows, spec="pool5-flatten", settings=settings)
    written = export(codes, to=to, path=tmp_path / "codes.out", manifest=manifest)
    assert all(p.is_file() for p in written)
    if to == "npy":
        assert np.array_equal(np.load(written[0]), rows)
        assert np.array_equal(np.load(written[1]), manifest.ids)
        assert len(written) == 2 + labelled and (not labelled or np.array_equal(np.load(written[2]), manifest.labels))
    elif to == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        table = pq.read_table(written[0])
        assert table["id"].to_pylist() == manifest.ids.tolist()
        assert table["label"].to_pylist() == manifest.labels.tolist()
        assert np.array_equal(np.array(table["codes"].to_pylist(), dtype=np.float16), rows)
    else:
        with h5py.File(written[0]) as f:
            assert np.array_equal(f["input"][()], rows.astype(np.float32))
            assert f["input"].attrs["lshape"].tolist() == [16, 2, 2] and not f["input"].attrs["mean"].any()
            assert ("output" in f) == labelled
            if labelled:
                assert f["output"][()].tolist() == [[0], [1]] * 5 and f["output"].attrs["nclass"] == 2


@pytest.mark.parametrize("to", FORMATS)
def test_some_images_without_a_label(to: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_BLOCK_BYTES", 3 * 8 * 4)
    labels = np.array(["a", "", "b", "b", "", "", "", "a", "b", ""])
    manifest = dataclasses.replace(make_manifest(images), labels=labels)
    rows = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)
    codes = Codes.from_arrays(manifest.ids, rows, spec="fc7-avg", settings={"pooling": "avg"})
    written = export(codes, to=to, path=tmp_path / "codes.out", manifest=manifest)
    if to == "npy":
        assert np.load(written[2]).tolist() == labels.tolist()
    elif to == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        assert pq.read_table(written[0])["label"].to_pylist() == labels.tolist()
    else:  # neon trains on every row
        with h5py.File(written[0]) as f:
            assert f["output"][()].tolist() == [[0], [1], [1], [0], [1]] and f["output"].attrs["nclass"] == 2
            assert np.array_equal(f["input"][()], rows[labels != ""])
            assert f["ids"].asstr()[()].tolist() == manifest.ids[labels != ""].tolist()


def test_refusals(images: Path, tmp_path: Path) -> None:
    codes = Codes.from_arrays(["x"], np.zeros((1, 2), np.float32), spec="pool5-avg", settings={})
    with pytest.raises(UserError, match="'csv'; allowed: npy, parquet, neon-hdf5"):
        export(codes, to="csv", path=tmp_path / "a")
    with pytest.raises(UserError, match="1 codes are of images that the dataset lacks"):
        export(codes, to="parquet", path=tmp_path / "a", manifest=make_manifest(images))
    assert not list(tmp_path.glob("*a*.tmp*")) and not (tmp_path / "a").exists()
