"""The reader: the same answers from files and from memory, and only whole codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.base import disk, hdf5_files, json_files
from pipeline.base.errors import RefusedError, UserError
from pipeline.codes import Codes, export, info, parts, stated
from pipeline.codes.settings import Settings
from pipeline.codes.store import Store
from tests.codes.test_settings import made

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # reads what lies on disk

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
        with pytest.raises(RefusedError, match=r"part-00001\.h5 is missing, cut short"):  # never skipped
            Codes.open(folder)
    part.write_bytes(content)
    assert info(folder)["whole"] and info(folder)["images"] == N
    about = json.loads((folder / stated.INDEX).read_text())
    (folder / stated.INDEX).write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(UserError, match="version 99; allowed: 1"):
        Codes.open(folder)
    with pytest.raises(UserError, match="holds no codes"):
        Codes.open(folder.parent)


def test_every_byte_of_a_part_counts_in_all_that_reads(folder: Path, tmp_path: Path) -> None:
    """Of codes that state no digest too, as those of earlier versions."""
    path = folder / "part-00001.h5"
    codes = Codes.open(folder)
    with h5py.File(path) as f:
        first = f["codes"].id.get_offset()
    for old in (False, True):
        whole = path.read_bytes()[512 * old :]
        at = first - 512 * old
        path.write_bytes(whole)
        assert np.array_equal(Codes.open(folder).by_id(IDS), ROWS) and info(folder)["whole"]
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        for read in (lambda: Codes.open(folder), lambda: codes.rows(slice(None)), lambda: list(codes.blocks(7))):
            with pytest.raises(UserError, match=r"part-00001\.h5 is missing, cut short or not"):
                read()
        with pytest.raises(UserError, match=r"part-00001\.h5"):
            export(codes, to="npy", path=tmp_path / "out.npy")
        assert not info(folder)["whole"] and not (tmp_path / "out.npy").exists()
        path.write_bytes(whole)


def test_a_part_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    digest = disk.hashlib.file_digest

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return digest(*args)

    monkeypatch.setattr(disk.hashlib, "file_digest", counted)
    monkeypatch.setattr(disk, "_TICK_NS", 0)
    for _ in range(3):
        codes = Codes.open(folder)
        for i in range(N):
            codes.rows(np.array([i]))
    assert count <= 4


def rename(about: dict[str, Any], name: str) -> None:
    about["parts"][name] = about["parts"].pop("part-00000.h5")


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "dtype": (lambda a: a.update(dtype="float32"), "dtype float32 is not that of its settings"),
    "a strange dtype": (lambda a: a.update(dtype="O"), "dtype do not fit"),
    "dim": (lambda a: a.update(dim=DIM - 1), r"part-00000\.h5.* .it has \(\d+, 6\) float16"),
    "no dim": (lambda a: a.pop("dim"), "dim do not fit"),
    "another key": (lambda a: a.update(more=1), "more do not fit"),
    "rows": (lambda a: a.update(rows=N + 1), "the rows of its parts"),
    "spec": (lambda a: a.update(spec="conv1_2-avg"), "spec conv1_2-avg is not that of its settings"),
    "settings": (lambda a: a["settings"].update(crop=96), "settings do not match its fingerprint"),
    "fingerprint": (lambda a: a.update(fingerprint="0" * 64), "settings do not match its fingerprint"),
    "settings and fingerprint": (
        lambda a: (a["settings"].update(crop=9), a.update(fingerprint=json_files.fingerprint(a["settings"]))),
        "its checksum or its fingerprint is another",
    ),
    "checksum": (lambda a: a["parts"]["part-00000.h5"].update(checksum="0" * 64), "its checksum or its fingerprint"),
    "rows of a part": (
        lambda a: (
            a.update(rows=N + 1),
            a["parts"]["part-00000.h5"].update(rows=a["parts"]["part-00000.h5"]["rows"] + 1),
        ),
        r"part-00000\.h5.* .it has",
    ),
    "a part elsewhere": (lambda a: rename(a, "../part-00000.h5"), "parts that are none"),
    "a part that is none": (lambda a: rename(a, "/dev/zero"), "parts that are none"),
    "parts in another order": (lambda a: a.update(parts=dict(reversed(a["parts"].items()))), "out of order"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_codes_json_is_what_was_written(folder: Path, name: str) -> None:
    change, why = CHANGES[name]
    about = json.loads((folder / stated.INDEX).read_text())
    change(about)
    (folder / stated.INDEX).write_text(json.dumps(about))
    with pytest.raises(UserError, match=why):
        Codes.open(folder)


@pytest.mark.parametrize("text", ["[]", "1", "null", '{"version": [1]}', '{"version": 1}', "{", ""])
def test_codes_json_that_is_none(folder: Path, text: str) -> None:
    (folder / stated.INDEX).write_text(text)
    with pytest.raises(UserError, match=r"version|do not fit|not JSON"):
        Codes.open(folder)


def test_a_hostile_part_is_refused(folder: Path, tmp_path: Path) -> None:
    """Rows that lie in another file, in a part that states its digest."""
    secret = tmp_path / "secret.txt"
    secret.write_bytes(bytes(10_000))
    path = folder / "part-00000.h5"
    with h5py.File(path, "r+") as f:
        shape = f["codes"].shape
        del f["codes"]
        f.create_dataset("codes", shape=shape, dtype="f2", external=[(str(secret), 0, 10_000)])
    hdf5_files.state_digest(path)
    with pytest.raises(UserError, match="keeps /codes in another file"):
        Codes.open(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is not a file"):
        Codes.open(folder)


def test_from_arrays_refuses_what_does_not_fit() -> None:
    for ids, rows, why in (
        (["a", "a"], ROWS[:2], "repeats"),
        (["a"], ROWS[:2], "do not fit"),
        (["a", "b"], ROWS[:2].astype(np.float64), "float64"),
    ):
        with pytest.raises(UserError, match=why):
            Codes.from_arrays(ids, rows, spec="x", settings={})
