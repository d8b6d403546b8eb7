"""Rows of a .npy file are those of the array, and nothing else of it is held."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.strategies import rows_file
from pipeline.strategies.rows_file import RowsFile
from tests import peak


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rows_are_the_arrays(tmp_path: Path, dtype: type) -> None:
    array = np.arange(4 * 5 * 6 * 2).reshape(4, 5, 6, 2).astype(dtype)
    with (tmp_path / "x.npy").open("wb") as file:
        rows_file.begin(file, dtype, array.shape)
        file.write(array.tobytes())
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)
    one, two = RowsFile(tmp_path / "x.npy"), pickle.loads(pickle.dumps(RowsFile(tmp_path / "x.npy", axes=2)))
    assert len(one) == 4 and one.shape == array.shape and one.dtype == dtype
    np.testing.assert_array_equal(one[[2, 0, 2]], array[[2, 0, 2]])
    np.testing.assert_array_equal(one[3], array[3])
    np.testing.assert_array_equal(two[[1, 2], [4, 0]], array[[1, 2], [4, 0]])
    np.testing.assert_array_equal(two[1, np.array([4, 0])], array[1, [4, 0]])
    for outside in (-1, 4):
        with pytest.raises(ValueError, match="invalid entry"):
            one[[outside]]


def test_a_file_that_was_cut_short_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 100)))
    whole = RowsFile(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    whole[[2]]
    with pytest.raises(OSError, match="cut short"):
        whole[[3]]


def test_an_epoch_holds_a_batch(tmp_path: Path) -> None:
    """64 MB of images, 8 at a time."""
    np.save(tmp_path / "x.npy", np.ones((1000, 64, 1000), dtype=np.uint8))
    rows = RowsFile(tmp_path / "x.npy")

    def epoch() -> None:
        for start in range(0, 1000, 8):
            rows[range(start, start + 8)]

    assert peak.of(epoch, warm=lambda: rows[[0]]) < 4 << 20
