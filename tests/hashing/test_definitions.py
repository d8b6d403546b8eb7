"""Each hasher against its definition."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.linalg import orthogonal_procrustes
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.random_projection import GaussianRandomProjection

from pipeline.base.errors import UserError
from pipeline.hashing import exact, itq
from pipeline.hashing.itq import Itq
from pipeline.hashing.learned import Learned, nearest
from pipeline.hashing.lsh import Lsh
from pipeline.hashing.median import Median
from pipeline.hashing.pca import Pca
from pipeline.hashing.principal import principal
from pipeline.hashing.sigmoid import Sigmoid
from pipeline.hashing.supervised import Supervised, centres
from pipeline.hashing.topk import TopK

torch.set_num_threads(1)


def unit(codes: np.ndarray) -> np.ndarray:
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


# sigmoid


def test_sigmoid_cuts_at_ln_3() -> None:
    below, above = np.float32(math.log(3)), np.float32(math.log(3))
    while float(below) > math.log(3):
        below = np.nextafter(below, np.float32(0))
    while float(above) <= math.log(3):
        above = np.nextafter(above, np.float32(9))
    codes = np.array([[0, below, above, 1, 1.1, 50, 1.09, 2]], dtype=np.float32)
    hasher = Sigmoid().fit(codes)
    assert hasher.bits(codes)[0].tolist() == [False, False, True, False, True, True, False, True]
    soft = hasher.soft(codes)
    np.testing.assert_allclose(soft, np.tanh(codes / 2), rtol=1e-6)
    assert soft.min() == 0
    assert soft.max() == 1


@given(npst.arrays(np.float16, (3, 8), elements=st.floats(0, 6, width=16)))
def test_sigmoid_bits_are_the_soft_code_above_one_half(codes: np.ndarray) -> None:
    codes[0, 0] = 6  # so that no example is of length 1
    hasher = Sigmoid().fit(codes)
    wide = codes.astype(np.float64)
    np.testing.assert_array_equal(hasher.bits(codes), (1 / (1 + np.exp(-wide)) - 0.5) / 0.5 > 0.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sigmoid_refuses_normalised_codes_to_fit_and_to_hash(dtype: type) -> None:
    codes = np.random.default_rng(0).exponential(2, (20, 512))
    normalised = unit(codes).astype(dtype)
    with pytest.raises(UserError, match="L2-normalised"):
        Sigmoid().fit(normalised)
    hasher = Sigmoid().fit(codes.astype(dtype))
    with pytest.raises(UserError, match="L2-normalised"):
        hasher.bits(normalised[:1])
    hasher.bits(np.zeros((1, 512), dtype=dtype))  # an empty image is no normalised one


# topk and median


def brute_topk(row: np.ndarray, k: int) -> list[bool]:
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    return [i in order and row[i] > 0 for i in range(len(row))]


@given(
    npst.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(16)), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0])),
    st.integers(1, 16),
)
def test_topk_breaks_ties_by_the_lower_index_and_sets_no_zero(codes: np.ndarray, k: int) -> None:
    bits = TopK(k=k).fit(codes).bits(codes)
    assert bits.tolist() == [brute_topk(row, k) for row in codes]


def test_topk_sets_exactly_k_where_there_are_as_many() -> None:
    codes = np.random.default_rng(1).exponential(1, (10, 64)).astype(np.float16)
    assert (TopK(k=7).fit(codes).bits(codes).sum(axis=1) == 7).all()
    for k in (0, 65):
        with pytest.raises(UserError, match="1 to 64"):
            TopK(k=k).fit(codes)


def test_median_bits_split_distinct_values_in_half() -> None:
    codes = np.random.default_rng(2).normal(0, 1, (100, 1032)).astype(np.float32)  # more than a block of columns
    bits = Median().fit(codes).bits(codes)
    assert (bits.sum(axis=0) == 50).all()


# linear hashers


def test_lsh_bits_differ_as_often_as_the_angle_says() -> None:
    codes = np.zeros((4, 3), dtype=np.float32)
    codes[:, :2] = [[1, 0], [math.cos(1), math.sin(1)], [-1, 0], [-math.cos(1), -math.sin(1)]]  # their mean is 0
    bits = Lsh(nbits=8000, seed=3).fit(codes).bits(codes)
    share = (bits[0] != bits[1]).mean()
    assert abs(share - 1 / math.pi) < 4 * math.sqrt(0.22 / 8000)
    np.testing.assert_array_equal(bits[0], ~bits[2])


def test_pca_directions_are_those_of_the_covariance_and_bits_their_signs() -> None:
    rng = np.random.default_rng(4)
    codes = (rng.normal(0, 1, (500, 12)) * np.arange(1, 13)).astype(np.float32)
    mean, directions = principal(codes, 8, who="pca", seed=0)
    covariance = np.cov(codes.T.astype(np.float64), bias=True)
    variances = np.einsum("ij,ik,kj->j", directions, covariance, directions)
    np.testing.assert_allclose(variances, np.sort(np.linalg.eigvalsh(covariance))[::-1][:8], rtol=1e-6)
    hasher = Pca(nbits=8).fit(codes)
    np.testing.assert_array_equal(hasher.bits(codes), (codes - mean) @ directions > 0)


def test_principal_of_many_dimensions_agrees_with_the_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    codes = (rng.normal(0, 1, (300, 60)) * 0.8 ** np.arange(60)).astype(np.float32)
    exact_directions = principal(codes, 8, who="pca", seed=0)[1]
    monkeypatch.setattr("pipeline.hashing.principal.EXACT_DIM", 10)
    np.testing.assert_allclose(principal(codes, 8, who="pca", seed=0)[1], exact_directions, atol=1e-4)


def test_more_bits_than_dimensions_are_refused() -> None:
    with pytest.raises(UserError, match="at most 12"):
        Itq(nbits=16).fit(np.ones((50, 12), dtype=np.float32))


def test_itq_rotation_is_orthogonal_and_its_error_never_grows() -> None:
    projected = np.random.default_rng(6).laplace(0, 1, (400, 16))
    rotation, errors = itq.rotate(projected, iterations=30, seed=0)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-12)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))
    assert errors[-1] < errors[0]


def test_itq_bits_are_the_signs_of_the_rotated_components() -> None:
    codes = np.random.default_rng(7).normal(0, 1, (200, 20)).astype(np.float32)
    hasher = Itq(nbits=8, iterations=4, seed=1).fit(codes)
    powered = np.sign(codes) * np.abs(codes) ** 0.75
    powered /= np.linalg.norm(powered, axis=1, keepdims=True)
    mean, directions = principal(powered, 8, who="itq", seed=1)
    rotation = itq.rotate((powered - mean) @ directions, iterations=4, seed=1)[0]
    np.testing.assert_array_equal(hasher.bits(codes), (powered - mean) @ directions @ rotation > 0)


# exact linear maps


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_signs_are_those_of_rational_arithmetic_even_at_the_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (3, 9)).astype(np.float32)
    w = rng.normal(0, 1, (9, 4)).astype(np.float32)
    # Offsets that leave the first row's sums within rounding of 0.
    offset = -(x[0].astype(np.float64) @ w.astype(np.float64))
    truth = [
        [sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, column, strict=True)), Fraction(t)) > 0
         for column, t in zip(w.T, offset.tolist(), strict=True)]
        for row in x
    ]  # fmt: skip
    assert exact.signs(x, w, offset).tolist() == truth


def test_a_sum_that_cancels_is_taken_exactly() -> None:
    x = np.array([[2.0**30, 1.0, -(2.0**30), 2.0**-30]], dtype=np.float32)
    w = np.array([[2.0**30], [0.0], [2.0**30], [2.0**-40]], dtype=np.float32)
    for sign in (1, -1):
        assert exact.signs(x, (sign * w).astype(np.float32), np.zeros(1))[0, 0] == (sign > 0)


def test_affine_rounds_once_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    x, w = rng.normal(0, 1, (40, 33)).astype(np.float32), rng.normal(0, 1, (33, 5)).astype(np.float32)
    offset = rng.normal(0, 1, 5)
    values = exact.affine(x, w, offset)
    truth = [math.fsum([*(x[3].astype(float) * w[:, 2].astype(float)), offset[2]])]
    assert values[3, 2] == np.float32(truth[0])
    monkeypatch.setattr(exact, "BLOCK_VALUES", 100)
    np.testing.assert_array_equal(exact.affine(x, w, offset), values)
    np.testing.assert_array_equal(exact.unit_rows(x), np.concatenate([exact.unit_rows(row[None]) for row in x]))


@pytest.mark.parametrize("power", exact.POWERS)
def test_powers_keep_signs_and_zeros_and_each_row_its_own(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(0, 3, (40, 33)).astype(np.float16)
    x[7] = 0
    found = exact.power_rows(x, power)
    wanted = np.sign(x) * np.abs(x.astype(np.float64)) ** power
    wanted /= np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not found[7].any()
    monkeypatch.setattr(exact, "BLOCK_VALUES", 100)
    np.testing.assert_array_equal(found, np.concatenate([exact.power_rows(row[None], power) for row in x]))


def test_other_powers_are_refused() -> None:
    with pytest.raises(UserError, match=r"power 0\.3.*allowed: 1\.0, 0\.75, 0\.5"):
        Itq(nbits=8, power=0.3).fit(np.ones((20, 16), dtype=np.float32))


# learned


def clusters(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight clusters in 32 dimensions that overlap little by cosine."""
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(0).normal(0, 1, (8, 32))
    numbers = np.arange(rows) % 8
    return (middle[numbers] + rng.normal(0, 0.6, (rows, 32))).astype(np.float32), numbers


def share_of_own_class(bits: np.ndarray, queries: np.ndarray, numbers: np.ndarray, own: np.ndarray) -> float:
    distance = (queries[:, None] != bits[None]).sum(axis=2)
    near = np.argsort(distance, axis=1, kind="stable")[:, :10]
    return float((numbers[near] == own[:, None]).mean())


def test_nearest_leaves_out_the_row_itself() -> None:
    codes = np.random.default_rng(9).normal(0, 1, (50, 6)).astype(np.float32)
    cosine = unit(codes) @ unit(codes).T
    np.fill_diagonal(cosine, -2)
    brute = np.argsort(-cosine, axis=1)[:, :4]
    assert np.array_equal(np.sort(nearest(codes, 4), axis=1), np.sort(brute, axis=1))


def test_learned_bits_are_balanced_blind_to_length_and_better_than_random_ones() -> None:
    codes, numbers = clusters(400, 1)
    queries, own = clusters(80, 2)
    params = {"nbits": 16, "components": 32, "neighbours": 5, "epochs": 15, "batch": 100, "rate": 0.01}
    hasher = Learned(**params).fit(codes)
    bits = hasher.bits(codes)
    np.testing.assert_array_equal(hasher.bits(codes * np.float32(8)), bits)
    assert ((bits.mean(axis=0) > 0.2) & (bits.mean(axis=0) < 0.8)).all()
    assert len({column.tobytes() for column in bits.T}) == 16
    random = Lsh(nbits=16).fit(codes)
    learned = share_of_own_class(bits, hasher.bits(queries), numbers, own)
    assert learned > share_of_own_class(random.bits(codes), random.bits(queries), numbers, own) + 0.05


def test_supervised_finds_classes_that_cosine_does_not() -> None:
    codes, numbers = clusters(800, 3)
    classes = (numbers % 2).astype(np.int64)  # each class is four clusters
    hasher = Supervised(nbits=16, components=32, hidden=32, epochs=10, batch=100, rate=0.01)
    hasher.fit(codes, targets=np.where(np.arange(800) < 760, classes, -1))
    queries, own = clusters(80, 4)
    assert share_of_own_class(hasher.bits(codes), hasher.bits(queries), classes, own % 2) > 0.9


@pytest.mark.parametrize("targets", [None, np.zeros(400, np.int64), np.full(400, -1), np.arange(30)])
def test_supervised_refuses_what_holds_no_classes(targets: np.ndarray | None) -> None:
    with pytest.raises(UserError, match="supervised"):
        Supervised(nbits=16, components=8).fit(clusters(400, 5)[0], targets=targets)


@pytest.mark.parametrize(("classes", "nbits"), [(10, 64), (20, 16), (5, 24), (40, 16)])
def test_centres_lie_half_the_bits_apart_while_there_are_such_codes(classes: int, nbits: int) -> None:
    rows = centres(classes, nbits, seed=0)
    assert rows.shape == (classes, nbits)
    assert set(np.unique(rows)) == {-1, 1}
    if nbits & (nbits - 1) == 0:
        first = rows[:nbits]
        np.testing.assert_array_equal(first @ first.T, nbits * np.eye(len(first)))


# against scikit-learn, scipy and torch


@pytest.mark.parametrize("exact_dim", [2048, 10])
def test_pca_bits_are_the_signs_of_scikit_learns_components(exact_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.hashing.principal.EXACT_DIM", exact_dim)
    rng = np.random.default_rng(11)
    codes = (rng.normal(0, 1, (300, 40)) * 0.8 ** np.arange(40) + rng.normal(0, 1, 40)).astype(np.float32)
    theirs = PCA(16, svd_solver="full").fit(codes.astype(np.float64))
    mean, directions = principal(codes, 16, who="pca", seed=0)
    np.testing.assert_allclose(mean, theirs.mean_, atol=1e-6)
    sign = np.sign(np.sum(directions * theirs.components_.T, axis=0))
    np.testing.assert_allclose(directions, theirs.components_.T * sign, atol=2e-4)
    values = theirs.transform(codes.astype(np.float64)) * sign
    clear = np.abs(values) > 1e-3  # not so near to the plane that rounding decides
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(Pca(nbits=16).fit(codes).bits(codes)[clear], (values > 0)[clear])


@pytest.mark.parametrize("iterations", [1, 20])
def test_itq_is_the_papers_loop_by_scipy(iterations: int) -> None:
    projected = np.random.default_rng(13).laplace(0, 1, (300, 8))
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 8)))[0]
    for _ in range(iterations):
        rotation = orthogonal_procrustes(projected, np.sign(projected @ rotation))[0]
    np.testing.assert_allclose(itq.rotate(projected, iterations=iterations, seed=2)[0], rotation, atol=1e-9)


def test_lsh_bits_are_the_signs_of_gaussian_projections_from_the_mean() -> None:
    codes = np.random.default_rng(14).exponential(1, (60, 30)).astype(np.float32)
    theirs = GaussianRandomProjection(24, random_state=0).fit(codes)
    hasher = Lsh(nbits=24, seed=3).fit(codes)
    drawn = np.random.default_rng(3).standard_normal((30, 24))
    centred = codes - codes.mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(hasher.bits(codes), centred @ drawn.astype(np.float32) > 0)
    theirs.components_ = drawn.T
    np.testing.assert_array_equal(hasher.bits(codes), theirs.transform(centred) > 0)


def test_median_topk_and_sigmoid_bits_are_those_of_numpy_torch_and_scipy() -> None:
    codes = np.random.default_rng(15).normal(0, 2, (51, 64)).astype(np.float32)
    lower = np.quantile(codes, 0.5, axis=0, method="lower")
    np.testing.assert_array_equal(Median().fit(codes).bits(codes), codes > lower)
    largest = torch.topk(torch.from_numpy(codes), 9, dim=1)
    kept = np.zeros(codes.shape, dtype=bool)
    np.put_along_axis(kept, largest.indices.numpy(), largest.values.numpy() > 0, axis=1)
    np.testing.assert_array_equal(TopK(k=9).fit(codes).bits(codes), kept)
    soft = (expit(codes.astype(np.float64)) - 0.5) / 0.5
    np.testing.assert_array_equal(Sigmoid().fit(codes).bits(codes), soft > 0.5)
