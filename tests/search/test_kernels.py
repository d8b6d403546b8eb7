"""The kernels give one answer, ties at the cut included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.search import kernels


@pytest.mark.parametrize("name", kernels.KERNELS)
@pytest.mark.parametrize(
    ("n", "width", "k"),
    [(1, 1, 1), (700, 1, 50), (9000, 8, 10), (1500, 72, 200), (300, 2, 300), (900, 1088, 9), (5, 32, 4)],
)
def test_k_smallest_by_distance_then_row(
    name: str, n: int, width: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "compiled" and (width % 32 or not kernels.has_compiler()):
        pytest.skip("the compiled kernel needs numba and rows of whole vectors")
    torch.set_num_threads(1)
    monkeypatch.setattr(kernels, "_BLOCK_BYTES", 100_000)  # several blocks, with candidates in the later ones
    rng = np.random.default_rng(n)
    packed = rng.integers(0, 256, (n, width), dtype=np.uint8)
    queries = rng.integers(0, 256, (70, width), dtype=np.uint8)
    packed[-1] = queries[0]  # the best one comes last
    truth = np.bitwise_count(queries[:, None] ^ packed).sum(axis=2, dtype=np.int64)
    order = np.argsort(truth, axis=1, kind="stable")[:, :k]
    distances, rows = kernels.KERNELS[name](queries, packed, k)
    assert rows.tolist() == order.tolist()
    assert distances.tolist() == np.take_along_axis(truth, order, axis=1).tolist()
    radius = int(np.median(truth))
    for found, row in zip(kernels.rows_within(queries[:5], packed, radius), truth, strict=False):
        assert found.tolist() == np.flatnonzero(row <= radius).tolist()


def test_the_scan_is_cut_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    packed = np.repeat(rng.integers(0, 4, (3000, 1), dtype=np.uint8), 5, axis=0)
    queries = packed[:4]
    answers = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(kernels, "_cores", lambda cores=cores: cores)
        answers.append([a.tolist() for a in kernels.scan(queries, packed, 20)])
    assert answers[0] == answers[1] == answers[2]


def test_the_fastest_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "has_int8_products", lambda: True)
    assert kernels.choose(1000, 10**6, 576, 10) == "product"
    assert kernels.choose(1, 10**6, 576, 10) != "product"
    assert kernels.choose(1000, 10**6, 8, 10) == "scan"
    monkeypatch.setattr(kernels, "has_int8_products", lambda: False)
    monkeypatch.setattr(kernels, "has_compiler", lambda: True)
    assert kernels.choose(1000, 10**6, 576, 10) == "compiled"
    assert kernels.choose(1000, 10**6, 576, 5000) == kernels.choose(1000, 10**6, 20, 10) == "scan"
    monkeypatch.setattr(kernels, "has_compiler", lambda: False)
    assert kernels.choose(1000, 10**6, 576, 10) == "scan"
