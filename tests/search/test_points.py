"""Distances of float codes: the definition, the same to the bit whatever they are multiplied with, and steps."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.search import points
from pipeline.search.points import Points

MAKERS = {"cosine": Points.cosine, "euclidean": Points.euclidean}


def copied(n: int = 60, d: int = 16, seed: int = 0, dtype: type = np.float32) -> NDArray[np.floating]:
    """Codes in [0, 1] in any order, each of them thrice, one of zeros among them."""
    rng = np.random.default_rng(seed)
    x = rng.random((n // 3, d)).astype(dtype)
    x[0] = 0
    return rng.permutation(np.tile(x, (3, 1)))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_distances_are_those_of_the_definition(name: str, dtype: type) -> None:
    x = copied(dtype=dtype)
    wide = x.astype(np.float64)
    found = MAKERS[name](x).to_all(MAKERS[name](x))
    assert found.dtype == np.float32
    for i in range(len(x)):
        for j in range(len(x)):
            if name == "euclidean":
                truth = 0.5 * float(((wide[i] - wide[j]) ** 2).sum())
            else:
                lengths = float(np.linalg.norm(wide[i]) * np.linalg.norm(wide[j]))
                truth = 1 - float(wide[i] @ wide[j]) / lengths if lengths else float((wide[i] != wide[j]).any())
            assert found[i, j] == pytest.approx(truth, abs=1e-6)
            if (x[i] == x[j]).all():
                assert found[i, j] == 0


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("d", [16, 512, 4099])
def test_equal_codes_are_equally_far_in_any_order_and_batch(name: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, make = copied(d=d, n=90), MAKERS[name]
    whole = make(x).to_all(make(x))
    _, of = np.unique(x, axis=0, return_inverse=True)
    for i, row in enumerate(whole):
        assert all(len(set(row[of == code].tolist())) == 1 for code in range(30)), i
    np.testing.assert_array_equal(whole, whole.T)
    rows = np.arange(len(x))
    one = np.stack([make(x[i : i + 1]).to_rows(0, make(x), rows) for i in range(0, 90, 7)])
    np.testing.assert_array_equal(one, whole[::7])
    order = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_array_equal(make(x[:40]).to_all(make(x[order])), whole[:40, order])
    np.testing.assert_array_equal(make(np.asfortranarray(x)).to_all(make(x)), whole)
    monkeypatch.setattr("pipeline.hashing.exact.BLOCK_VALUES", 7 * d)
    np.testing.assert_array_equal(make(x[3:5]).to_all(make(x)), whole[3:5])


def test_a_product_at_the_edge_between_two_steps_is_summed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """x.y is such that half of x.x + y.y - 2 x.y lies within rounding of an odd number of half steps."""
    asked: list[int] = []
    summed = Points.to_rows
    monkeypatch.setattr(Points, "to_rows", lambda self, q, o, rows: asked.append(len(rows)) or summed(self, q, o, rows))
    step = Points.euclidean(np.zeros((1, 16), np.float32)).step
    a, b = np.zeros((1, 16), np.float32), np.zeros((3, 16), np.float32)
    b[1, 0] = np.sqrt(2 * 1000.5 * step)  # rounded to float32: near the edge, not on it
    b[2, :2] = 0.5, 0.25
    found = Points.euclidean(a).to_all(Points.euclidean(b))
    assert asked == []
    assert found[0, 2] == 0.15625
    exact = Fraction(float(b[1, 0])) ** 2 / 2 / Fraction(step)
    assert found[0, 1] == float(round(exact)) * step
    monkeypatch.setattr(Points, "_slack", lambda self, others: np.full((1, 1), 0.4 * step))
    assert Points.euclidean(a).to_all(Points.euclidean(b)).tolist() == found.tolist()
    assert asked == [1]


def test_distances_of_bits_are_half_the_hamming_distance_exactly() -> None:
    for d in (8, 24, 100, 4608):
        bits = np.random.default_rng(d).random((30, d)) < 0.3
        x = Points.euclidean(bits.astype(np.float32))
        np.testing.assert_array_equal(x.to_all(x), 0.5 * (bits[:, None] != bits).sum(axis=2))


def test_no_rows_and_rows_of_blocks() -> None:
    x = Points.cosine(copied())
    assert x.to_all(x.take(slice(0, 0))).shape == (60, 0)
    assert x.take(slice(0, 0)).to_all(x).shape == (0, 60)
    assert x.to_rows(0, x, np.zeros(0, np.int64)).shape == (0,)
    many = np.tile(np.arange(60), 50)
    assert len(many) > 2 * points._SUMMED_ROWS
    assert x.to_rows(4, x, many).tolist() == np.tile(x.to_rows(4, x, np.arange(60)), 50).tolist()


def test_no_distance_is_minus_zero() -> None:
    x = np.random.default_rng(0).random((200, 33)).astype(np.float32)
    points = Points.cosine(x)
    own = np.array([points.to_rows(i, points, np.array([i]))[0] for i in range(len(x))])
    assert not np.signbit(own).any() and not np.signbit(np.diag(points.to_all(points))).any()
