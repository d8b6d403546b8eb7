"""The reader: the same answers from files and from memory, and only whole codes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.codes import Codes, info, parts, stated
from pipeline.codes.settings import Settings
from pipeline.codes.store import Store
from pipeline.errors import UserError
from tests.codes.test_settings import made

pytestmark = pytest.mark.network

N, DIM = 50, 6
RNG = np.random.default_rng(0)
DIGESTS = np.sort(np.array([RNG.bytes(32).hex() for _ in range(N)], dtype="S64"))
IDS = np.array([d.decode()[:16] + "-0" for d in DIGESTS])
ROWS = RNG.standard_normal((N, DIM)).astype(np.float16)


def settings() -> Settings:
    return made(dtype="float16", layers=["conv1_1-avg"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Codes in four parts."""
    monkeypatch.setattr(parts, "PART_BYTES", N * DIM * 2 // 3)
    store = Store(settings().as_json(), dim=DIM, dtype="float16", root=tmp_path / "cache")
    store.append(DIGESTS, ROWS)
    parts.export_parts(settings(), store, IDS, DIGESTS, tmp_path / "conv1_1-avg")
    return tmp_path / "conv1_1-avg"


@pytest.fixture(params=["files", "memory"])
def codes(request: pytest.FixtureRequest, folder: Path) -> Codes:
    if request.param == "files":
        return Codes.open(folder)
    shuffled = np.random.default_rng(1).permutation(N)
    return Codes.from_arrays(IDS[shuffled], ROWS[shuffled], spec="conv1_1-avg", settings=settings().as_json())


def test_what_it_says_of_itself(codes: Codes) -> None:
    assert (len(codes), codes.dim, codes.dtype, codes.spec) == (N, DIM, np.float16, "conv1_1-avg")
    assert codes.fingerprint == settings().key
    assert np.array_equal(codes.ids, IDS)


def test_rows_in_any_order(codes: Codes) -> None:
    for index in (np.array([49, 0, 7, 7, 30]), np.arange(N)[::-1], np.empty(0, dtype=np.int64)):
        assert np.array_equal(codes.rows(index), ROWS[index])
    assert np.array_equal(codes.rows(slice(5, 40, 7)), ROWS[5:40:7])
    assert np.array_equal(codes.by_id(IDS[[9, 2]]), ROWS[[9, 2]])
    for bad in ([-1], [N]):
        with pytest.raises(IndexError):
            codes.rows(np.array(bad))


def test_missing_ids_are_named(codes: Codes) -> None:
    with pytest.raises(UserError, match="2 of 3 images have no codes of conv1_1-avg: nothing-0, zz-1"):
        codes.by_id(["nothing-0", IDS[0], "zz-1"])


def test_blocks_cover_all_in_order(codes: Codes) -> None:
    blocks = list(codes.blocks(7))
    assert [len(ids) for ids, _ in blocks] == [7] * 7 + [1]
    assert np.array_equal(np.concatenate([b for _, b in blocks]), ROWS)
    assert np.array_equal(np.concatenate([ids for ids, _ in blocks]), IDS)


def test_parts_are_cut_by_the_leading_bits(folder: Path) -> None:
    names = sorted(p.name for p in folder.glob("part-*.h5"))
    assert names == [f"part-{i:05d}.h5" for i in range(4)]
    for i, name in enumerate(names):
        with h5py.File(folder / name) as f:
            assert {int(x[:1], 16) >> 2 for x in f["ids"][()]} == {i}


def test_not_whole(folder: Path) -> None:
    part = folder / "part-00001.h5"
    content = part.read_bytes()
    with h5py.File(part, "r+") as f:
        f["codes"][0, 0] += 1
    assert not info(folder)["whole"] and "part-00001.h5 is missing, cut short or not" in info(folder)["problem"]
    for broken in (content[:-100], b""):
        part.write_bytes(broken)
        assert not info(folder)["whole"]
        with pytest.raises(UserError, match=r"part-00001\.h5 is missing, cut short"):
            Codes.open(folder)
    part.write_bytes(content)
    assert info(folder)["whole"] and info(folder)["images"] == N
    about = json.loads((folder / stated.INDEX).read_text())
    (folder / stated.INDEX).write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(UserError, match="version 99; allowed: 1"):
        Codes.open(folder)
    with pytest.raises(UserError, match="holds no codes"):
        Codes.open(folder.parent)


def test_from_arrays_refuses_what_does_not_fit() -> None:
    for ids, rows, why in (
        (["a", "a"], ROWS[:2], "repeats"),
        (["a"], ROWS[:2], "do not fit"),
        (["a", "b"], ROWS[:2].astype(np.float64), "float64"),
    ):
        with pytest.raises(UserError, match=why):
            Codes.from_arrays(ids, rows, spec="x", settings={})
