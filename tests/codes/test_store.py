"""The store: what goes in comes out, whatever was killed, cut or written beside it."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.base.held import held
from pipeline.codes.reader import Codes
from pipeline.codes.store import Digests, Store, store_gc, store_sizes

SETTINGS = {"arch": "tinyvgg", "layer": "pool5", "pooling": "avg", "l2": False}


def digests(*numbers: int) -> Digests:
    return np.array([f"{n:064x}" for n in sorted(numbers)], dtype="S64")


def rows(*numbers: int) -> np.ndarray:
    return np.array([[n, n + 0.5] for n in sorted(numbers)], dtype=np.float16)


def new(root: Path) -> Store:
    return Store(SETTINGS, dim=2, dtype="float16", root=root)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = new(tmp_path)
    made.append(digests(1, 3, 5), rows(1, 3, 5))
    made.append(digests(2, 4), rows(2, 4))
    return made


def shards(store: Store) -> list[Path]:
    return sorted(store.folder.glob("shard-*.h5"))


def test_rows_come_back_in_the_order_asked(store: Store, tmp_path: Path) -> None:
    for one in (store, new(tmp_path)):
        assert one.known(digests(0, 1, 2, 9)).tolist() == [False, True, True, False]
        asked = digests(1, 2, 3, 5)[[3, 0, 2, 1, 0]]
        np.testing.assert_array_equal(one.read(asked), rows(1, 2, 3, 5)[[3, 0, 2, 1, 0]])
        np.testing.assert_array_equal(one.read(asked[:1]), rows(5))
        assert one.read(digests(1, 9)) is None


def test_an_empty_store_makes_nothing_on_disk(tmp_path: Path) -> None:
    assert not new(tmp_path).known(digests(1)).any()
    assert not list(tmp_path.iterdir())


def test_equal_content_is_one_file_and_another_is_another(store: Store, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in shards(store)}
    new(tmp_path).append(digests(1, 3, 5), rows(1, 3, 5))
    assert {p.name: p.read_bytes() for p in shards(store)} == before
    new(tmp_path).append(digests(3, 5), rows(3, 5))
    assert {p.name: p.read_bytes() for p in shards(store)}.items() > before.items()
    np.testing.assert_array_equal(new(tmp_path).read(digests(1, 2, 3, 4, 5)), rows(1, 2, 3, 4, 5))


@pytest.mark.parametrize("keep_bytes", [0, 1, 700, -1])
def test_a_cut_shard_is_set_aside(
    store: Store, tmp_path: Path, keep_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = next(p for p in shards(store) if len(h5py.File(p)["sha256"]) == 3)
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with caplog.at_level(logging.WARNING):
        after = new(tmp_path)
        assert after.read(digests(1)) is None
    assert "damaged" in caplog.text and path.name in caplog.text
    assert after.known(digests(1, 2, 3, 4, 5)).tolist() == [False, True, False, True, False]
    np.testing.assert_array_equal(after.read(digests(2, 4)), rows(2, 4))
    after.append(digests(1, 3, 5), rows(1, 3, 5))
    np.testing.assert_array_equal(new(tmp_path).read(digests(1, 2, 3, 4, 5)), rows(1, 2, 3, 4, 5))


def test_a_changed_value_is_found_by_the_checksum(store: Store, tmp_path: Path) -> None:
    with h5py.File(shards(store)[0], "r+") as f:
        f["codes"][0, 0] += 1
    after = new(tmp_path)
    assert after.read(digests(1, 2)) is None
    assert after.known(digests(1, 2)).sum() == 1


def test_a_shard_without_its_list_is_written_again(store: Store, tmp_path: Path) -> None:
    """What a run leaves that was killed between the two files."""
    before = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    next(store.folder.glob("*.ids")).unlink()
    after = new(tmp_path)
    assert 0 < after.known(digests(1, 2, 3, 4, 5)).sum() < 5
    after.append(digests(1, 3, 5), rows(1, 3, 5))
    after.append(digests(2, 4), rows(2, 4))
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == before


def test_a_shard_may_take_the_place_of_one_that_another_run_reads(store: Store, tmp_path: Path) -> None:
    first = store.append(digests(6), rows(6))
    reader = new(tmp_path)
    assert reader.known(digests(6)).all()
    second = store.append(digests(6, 7), rows(6, 7), instead_of=first)
    assert store.append(digests(6, 7), rows(6, 7), instead_of=second) == second
    assert {p.stem for p in store.folder.iterdir()} >= {second} and not list(store.folder.glob(f"{first}*"))
    np.testing.assert_array_equal(reader.read(digests(1, 6)), rows(1, 6))
    assert not list(store.folder.glob("*.damaged"))


def test_leftovers_go_unless_their_writer_lives(store: Store) -> None:
    living, dead = store.folder / ".shard-1.h5.abcdefgh.tmp.h5", store.folder / ".shard-2.h5.abcdefgh.tmp.h5"
    for path in (living, dead):
        path.touch()
        past = time.time() - 60
        os.utime(path, (past, past))
    time.sleep(1.05)  # of the time of change, which nothing sets
    with held(living):
        store.clear_leftovers()
        assert living.exists() and not dead.exists()


def test_random_damage_never_gives_a_wrong_row(store: Store, tmp_path: Path) -> None:
    whole = {p: p.read_bytes() for p in store.folder.iterdir()}
    rng = np.random.default_rng(0)
    for _ in range(60):
        for path, content in whole.items():
            broken = bytearray(content)
            if rng.random() < 0.4:
                broken[rng.integers(len(content))] ^= int(rng.integers(1, 256))
            path.write_bytes(broken)
        after = new(tmp_path)
        for n in range(1, 6):
            found = after.read(digests(n))
            assert found is None or np.array_equal(found, rows(n))
        for path in store.folder.iterdir():
            path.unlink()


def test_a_full_disk_leaves_a_good_store(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="no space left"):
            store.append(digests(7), rows(7))
    assert len(list(store.folder.iterdir())) == 4
    np.testing.assert_array_equal(new(tmp_path).read(digests(1, 2, 3, 4, 5)), rows(1, 2, 3, 4, 5))
    store.append(digests(7), rows(7))
    assert new(tmp_path).known(digests(7)).all()


def test_sizes_and_gc(store: Store, tmp_path: Path) -> None:
    other = Store(SETTINGS | {"layer": "pool4"}, dim=2, dtype="float16", root=tmp_path)
    other.append(digests(1), rows(1))
    (other.folder / ".shard-x.h5.1.tmp.h5").write_bytes(b"killed")
    os.utime(other.folder / ".shard-x.h5.1.tmp.h5", (0, time.time() - 1e6))
    sizes = {s["name"]: s for s in store_sizes(tmp_path)}
    assert sizes["tinyvgg-pool5-avg"]["images"] == 5 and sizes["tinyvgg-pool4-avg"]["images"] == 1
    assert sizes["tinyvgg-pool4-avg"]["bytes"] == sum(p.stat().st_size for p in other.folder.iterdir())
    keep = Codes.from_arrays(["a"], rows(1), spec="pool4-avg", settings=other.settings)
    store_bytes = sum(p.stat().st_size for p in store.folder.iterdir())
    assert store_gc(tmp_path, keep=[keep], dry_run=True) == store_bytes + 6
    assert store_gc(tmp_path, keep=[keep]) == store_bytes + 6
    assert not store.folder.exists() and sorted(p.suffix for p in other.folder.iterdir()) == [".h5", ".ids"]


def test_lookup_among_ten_thousand_is_fast(tmp_path: Path) -> None:
    many = new(tmp_path)
    for start in range(0, 10_000, 500):
        numbers = range(start, start + 500)
        many.append(digests(*numbers), np.zeros((500, 2), dtype=np.float16))
    started = time.perf_counter()
    assert new(tmp_path).known(digests(*range(10_000))).all()
    assert time.perf_counter() - started < 1
