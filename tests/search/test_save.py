"""Indexes on disk: whole or refused, and never lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.search import INDEXES, make, save
from pipeline.search.save import Saved
from tests.search.test_contract import SETTINGS, collection

MADE_BY = {"hasher": "itq", "spec": "conv5_3-avg", "weights_sha256": "ab" * 32, "preprocessing": {"channels": "bgr"}}


def saved(name: str = "exact", n: int = 200, seed: int = 0) -> Saved:
    packed, ids = collection(n, seed)
    index = make(name, 32, **SETTINGS[name])
    index.add(packed, ids)
    order = np.argsort(ids)
    columns = {
        "label": np.array(["çat", "犬"])[np.arange(n) % 2][order],
        "code": packed.astype(np.float16)[order],
    }
    return Saved(index, MADE_BY, columns, {"hasher.h5": b"\x00plain arrays"})


def same(a: Saved, b: Saved, *, ties: bool = True) -> None:
    """`ties`: with the same neighbours where more than fit are equally near at the cut."""
    queries = collection(30, 5)[0]
    (near, ids), (other_near, other_ids) = a.index.search(queries, 9), b.index.search(queries, 9)
    assert near.tolist() == other_near.tolist()
    assert not ties or ids.tolist() == other_ids.tolist()
    assert a.index.ids.tolist() == b.index.ids.tolist()
    assert a.index.settings() == b.index.settings()
    assert (a.made_by, a.files) == (b.made_by, b.files)
    assert {k: v.tolist() for k, v in a.columns.items()} == {k: v.tolist() for k, v in b.columns.items()}


@pytest.mark.parametrize("name", INDEXES)
def test_round_trip_and_the_same_bytes_again(name: str, tmp_path: Path) -> None:
    first = saved(name)
    prints = [save.create(tmp_path / f, saved(name)) for f in ("a.index", "b.index")]
    assert prints[0] == prints[1]
    same(save.load(tmp_path / "a.index"), first)
    about = save.info(tmp_path / "a.index")
    assert (about["index"], about["count"], about["nbits"], about["made_by"]) == (name, 200, 32, MADE_BY)
    assert about["fingerprint"] == prints[0]


@pytest.mark.parametrize("name", INDEXES)
def test_changes_after_a_load_are_changes_without_one(name: str, tmp_path: Path) -> None:
    packed, ids = collection(80, 1)
    columns = {"label": np.full(80, "a longer label"), "code": packed.astype(np.float16)}
    kept = saved(name)
    gone = kept.index.ids[20:50]
    kept.add(packed, ids, columns)
    kept.remove(gone)
    folder = tmp_path / "my.index"
    save.create(folder, saved(name))
    with save.updating(folder) as loaded:
        loaded.add(packed, ids, columns)
    with save.updating(folder) as loaded:
        loaded.remove(gone)
    again = save.load(folder)
    # Of inverted lists faiss cuts ties by the order in which rows came, and rows are read in the order of their ids.
    same(again, kept, ties=name != "ivf")
    for row, code in zip(again.index.packed, again.columns["code"], strict=True):
        assert row.tolist() == code.tolist()  # columns followed their rows
    assert len(list(folder.glob("gen-*"))) == 2


def test_an_exact_index_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    """The fingerprint covers every file; it was taken before there was a choice of kinds."""
    made = save.create(tmp_path / "my.index", saved())
    assert made == "1d50a519725ea4e0e29c43db6266f2c8c1dd952f00f62cf8ce137df5114272ef"
    assert not (tmp_path / "my.index/gen-000001/backend.bin").exists()


def test_an_empty_index(tmp_path: Path) -> None:
    save.create(tmp_path / "i", Saved(make("exact", 64), {}))
    with pytest.raises(UserError, match="empty"):
        save.load(tmp_path / "i").index.search(np.zeros((1, 8), np.uint8), 1)


@pytest.mark.parametrize("name", ["exact", "hnsw"])
def test_every_truncation_and_change_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "my.index"
    save.create(folder, saved(name, 60))
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    assert {"current.json", "manifest.json", "rows.h5", "hasher.h5"} <= {p.name for p in files}
    for path in files:
        data = path.read_bytes()
        for length in sorted({0, 1, len(data) // 3, len(data) // 2, len(data) - 2, *range(0, len(data), 997)}):
            path.write_bytes(data[:length])
            with pytest.raises(UserError):
                save.load(folder)
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(UserError):
            save.load(folder)
        path.unlink()
        with pytest.raises(UserError):
            save.load(folder)
        path.write_bytes(data)
        save.load(folder)


def test_other_codes_versions_and_places_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "my.index"
    with pytest.raises(UserError, match="not an index"):
        save.load(folder)
    with pytest.raises(UserError, match="not an index"), save.updating(folder):
        pass
    assert not folder.exists()
    save.create(folder, saved())
    with pytest.raises(UserError, match="there already"):
        save.create(folder, saved())
    loaded = save.load(folder)
    loaded.require(MADE_BY)
    with pytest.raises(UserError, match="weights_sha256 'cd', not 'abab"):
        loaded.require({**MADE_BY, "weights_sha256": "cd"})
    with pytest.raises(UserError, match="columns"):
        loaded.add(*collection(3, 1))
    packed, ids = collection(3, 1)
    with pytest.raises(UserError, match="label"):
        loaded.add(packed, ids, {"label": np.zeros(3), "code": packed.astype(np.float16)})
    pointer = json.loads((folder / "current.json").read_text())
    for change in ({"version": 99}, {"generation": "../elsewhere"}, {"generation": "gen-000007"}):
        (folder / "current.json").write_text(json.dumps({**pointer, **change}))
        with pytest.raises(UserError):
            save.load(folder)
    for name in ("../x", "/x", "", ".x"):
        with pytest.raises(UserError, match="name"):
            save.create(tmp_path / "other", Saved(make("exact", 8), {}, {}, {name: b""}))
        assert not list((tmp_path / "other").glob("*gen*"))


def test_a_failed_change_leaves_the_old_index(tmp_path: Path) -> None:
    folder = tmp_path / "my.index"
    save.create(folder, saved())
    before = save.info(folder)
    with pytest.raises(UserError, match="already"), save.updating(folder) as loaded:
        loaded.remove(loaded.index.ids[:5])
        loaded.add(*collection(1), {"label": np.array(["x"]), "code": np.zeros((1, 4), np.float16)})
        loaded.add(*collection(1), {"label": np.array(["x"]), "code": np.zeros((1, 4), np.float16)})
    assert save.info(folder) == before
    same(save.load(folder), saved())


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "my.index"
    save.create(folder, saved())
    with save.updating(folder), pytest.raises(UserError, match="another process"), save.updating(folder):
        pass


# Forks a child for every step: it adds, and is killed just before its step-th call to the system.
CRASHING = """
import os, signal, sys
import numpy as np
from pipeline.search import save
from tests.search.test_contract import collection
folder, (packed, ids) = sys.argv[1], collection(300, 1)

def add(step):
    count = 0
    def counted(call):
        def calling(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return calling
    for name in ("fsync", "open", "replace", "rename", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    with save.updating(folder) as loaded:
        loaded.add(packed, ids, {"label": np.full(300, "new"), "code": packed.astype(np.float16)})

for step in range(1, 200):
    child = os.fork()
    if child == 0:
        add(step)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    rows = len(save.load(folder).index)
    print(status, rows, flush=True)
    if rows == 500:
        with save.updating(folder) as loaded:
            loaded.remove(ids)
    if status == 0:
        break
"""


@pytest.mark.parametrize("name", INDEXES)
def test_killed_at_every_point_of_an_add(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "my.index"
    save.create(folder, saved(name))
    # A child that is forked has none of OpenMP's threads.
    env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CRASHING, str(folder)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    steps = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    # Killed with the old index in force, then killed with the new one, then done.
    assert {status for status, _ in steps[:-1]} == {-signal.SIGKILL}
    rows = [rows for _, rows in steps]
    assert set(rows) == {200, 500}
    assert rows == sorted(rows)
    assert steps[-1] == (0, 500)
    if name == "ivf":  # whose centres the larger collection moved
        assert save.load(folder).index.ids.tolist() == saved(name).index.ids.tolist()
    else:
        same(save.load(folder), saved(name))
    assert not list(folder.glob(".gen-*"))


def test_loads_during_changes_see_one_index(tmp_path: Path) -> None:
    folder = tmp_path / "my.index"
    save.create(folder, saved(n=40))
    stop, wrong = threading.Event(), []

    def reading() -> None:
        while not stop.is_set():
            loaded = save.load(folder)
            rows = len(loaded.index)
            codes = loaded.columns["code"].astype(np.uint8)
            if rows % 40 or not np.array_equal(codes, loaded.index.packed):
                wrong.append(rows)

    reader = threading.Thread(target=reading)
    reader.start()
    for seed in range(1, 16):
        packed, ids = collection(40, seed)
        with save.updating(folder) as loaded:
            loaded.add(packed, ids, {"label": np.full(40, str(seed)), "code": packed.astype(np.float16)})
    stop.set()
    reader.join()
    assert not wrong
    assert len(save.load(folder).index) == 640


def test_columns_of_another_file_are_refused(tmp_path: Path) -> None:
    """An index that was made to be shared: its labels are the lines of a file here, and all its digests are right."""
    save.create(tmp_path / "x.index", saved())
    (tmp_path / "secret.txt").write_bytes(b"root:x:0:0" * 200)
    here = tmp_path / "x.index" / "gen-000001"
    with h5py.File(here / "rows.h5", "r+") as f:
        del f["columns/label"]
        f.create_dataset("columns/label", (200,), "S10", external=[(str(tmp_path / "secret.txt"), 0, 2000)])
        f["columns/label"].attrs["text"] = True
    manifest = json.loads((here / "manifest.json").read_text())
    size, digest = (here / "rows.h5").stat().st_size, disk.sha256(here / "rows.h5")
    manifest["files"]["rows.h5"] = {"bytes": size, "sha256": digest}
    json_files.write(here / "manifest.json", manifest)
    pointer = json.loads((tmp_path / "x.index/current.json").read_text())
    pointer["manifest_sha256"] = disk.sha256(here / "manifest.json")
    json_files.write(tmp_path / "x.index/current.json", pointer)
    with pytest.raises(UserError, match="keeps /columns/label in another file"):
        save.load(tmp_path / "x.index")
