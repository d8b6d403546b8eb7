"""Writes are whole or absent, and fingerprints are functions of the value alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.base.held import held

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_fingerprint_survives_a_round_trip_through_json(value: object) -> None:
    assert json_files.fingerprint(json.loads(json.dumps(value))) == json_files.fingerprint(value)


def test_fingerprint_ignores_key_order_and_is_pinned() -> None:
    assert json_files.fingerprint({"a": 1, "b": [2, 3]}) == json_files.fingerprint({"b": [2, 3], "a": 1})
    assert json_files.fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_nan_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_files.fingerprint(float("nan"))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    json_files.write(path, {"v": 1})
    with pytest.raises(RuntimeError), disk.atomic_path(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert json_files.read(path) == {"v": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    disk.write_text(path, "old")
    code = (
        "import os, signal, sys; from pipeline.base.disk import atomic_path\n"
        "with atomic_path(sys.argv[1]) as tmp:\n"
        "    tmp.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left"),
        (
            OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
            "no space",
        ),
        (PermissionError(errno.EACCES, "x"), "no permission"),
    ],
)
def test_disk_errors_become_sentences(error: OSError, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said), disk.atomic_path(tmp_path / "a"):
        raise error
    assert os.listdir(tmp_path) == []


def test_what_killed_runs_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.base.held._JUST_MADE_S", 0.0)
    names = [".a.json.abcdefgh.tmp.json", ".a.json.01234567.tmp.json", ".b.json.abcdefgh.tmp.json"]
    for name in names:
        (tmp_path / name).touch()
    with held(tmp_path / names[1]):
        json_files.write(tmp_path / "a.json", 1)
    assert sorted(os.listdir(tmp_path)) == sorted(["a.json", *names[1:]]), "one is at work, others are not this file's"


def test_too_little_space_is_refused_at_once(tmp_path: Path) -> None:
    disk.require_space(tmp_path / "not/yet/there", 1, what="a test")
    with pytest.raises(UserError, match=r"a test needs 1000000\.0 TB, and 67\.1 MB that stay free, .*another disk, or"):
        disk.require_space(tmp_path, 10**18, what="a test")
    with pytest.raises(UserError, match=r"allowed: a pooling, or another disk"):
        disk.require_space(tmp_path, 10**18, what="a test", less="a pooling")


def test_a_full_disk_is_told_in_units_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=61_440)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 4\.1 kB, .* where 61\.4 kB are free"):
        disk.require_space(tmp_path, 4096, what="a test")


@pytest.mark.parametrize("text", ["", "{", "\ud800"])
def test_cut_json_is_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="not JSON"):
        json_files.read(path)


def test_what_a_killed_write_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pipeline.base import disk\n"
        "with disk.atomic_path(sys.argv[1]) as tmp:\n    tmp.write_bytes(b'half')\n    os._exit(9)\n"
    )
    for name in ("part-00000.h5", "codes.json"):
        killed = [sys.executable, "-c", code, str(tmp_path / name)]
        subprocess.run(killed, cwd=Path(__file__).parents[2], check=False)
    for kept in ("part-00000.h5", ".hidden.h5", "notes.tmp.h5"):
        (tmp_path / kept).write_bytes(b"kept")
    assert len(list(tmp_path.iterdir())) == 5
    disk.clear_leftovers(tmp_path, "part-*.h5")
    disk.clear_leftovers(tmp_path, "codes.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden.h5", "notes.tmp.h5", "part-00000.h5"]


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda p: p.symlink_to("/dev/zero")])
def test_json_in_what_is_not_a_file_is_refused_at_once(tmp_path: Path, put: Callable[[Path], None]) -> None:
    put(tmp_path / "x.json")
    with pytest.raises(UserError, match="is not a file"):
        json_files.read(tmp_path / "x.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000])
def test_json_that_no_reader_takes(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="is not JSON"):
        json_files.read(tmp_path / "x.json")
