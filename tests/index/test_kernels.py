"""The kernels give one answer, ties at the cut included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.index import kernels


@pytest.mark.parametrize("name", kernels.KERNELS)
@pytest.mark.parametrize(("n", "width", "k"), [(1, 1, 1), (700, 1, 50), (9000, 8, 10), (1500, 72, 200), (300, 2, 300)])
def test_k_smallest_by_distance_then_row(
    name: str, n: int, width: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_the_product_is_for_batches_of_long_codes_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (False, True):
        monkeypatch.setattr(kernels, "has_int8_products", lambda fast=fast: fast)
        assert kernels.choose(1000, 4608) == ("product" if fast else "scan")
        assert kernels.choose(1, 4608) == kernels.choose(1000, 64) == "scan"
