"""Files are read once, and again when they could have changed; what can't be read says why."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.base import stopping
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.data import stamps, verify
from pipeline.data.manifest import Failure
from pipeline.data.memory import Facts, Memory
from pipeline.data.room import Room
from pipeline.data.stamps import Stamp
from tests.data.stored import png
from tests.data.world import picture


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are read, in some order. Time stamps settle at once."""
    monkeypatch.setattr(stamps, "TICK_NS", -1)
    seen: list[str] = []
    check = verify._check

    def counted(folder: str, path: str, max_pixels: int, room: Room) -> verify._Checked:
        seen.append(path)
        return check(folder, path, max_pixels, room)

    monkeypatch.setattr(verify, "_check", counted)
    return seen


def run(root: Path, paths: list[str], max_pixels: int = 1000, memory_mb: int = 64) -> list[Facts | Failure]:
    return list(verify.verify(root, paths, max_pixels=max_pixels, room=Room(memory_mb)))


def test_facts_come_in_order_and_size_is_as_shown(tmp_path: Path) -> None:
    for name, (width, height) in {"b.png": (3, 4), "a.png": (5, 6)}.items():
        picture(tmp_path / name, 0, height=height, width=width)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 20)).save(tmp_path / "turned.png", exif=exif)
    paths = ["b.png", "turned.png", "a.png"]
    expected = [
        Facts(hashlib.sha256((tmp_path / p).read_bytes()).hexdigest(), *size)
        for p, size in zip(paths, [(3, 4), (20, 10), (5, 6)], strict=True)
    ]
    assert run(tmp_path, paths) == expected


def test_a_second_run_reads_nothing_and_says_the_same(tmp_path: Path, reads: list[str]) -> None:
    paths = [picture(tmp_path / f"{i}.png", i).name for i in range(5)]
    first = run(tmp_path, paths)
    assert sorted(reads) == paths
    assert run(tmp_path, paths) == first
    assert len(reads) == 5


def test_a_changed_file_is_read_again_even_with_its_old_size_and_mtime(tmp_path: Path, reads: list[str]) -> None:
    path = tmp_path / "a.bmp"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
    before, first = path.stat(), run(tmp_path, ["a.bmp"])
    time.sleep(0.02)  # longer than a file system's tick
    Image.new("RGB", (4, 4), (3, 2, 1)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    second = run(tmp_path, ["a.bmp"])
    assert second != first and second == [Facts(hashlib.sha256(path.read_bytes()).hexdigest(), 4, 4)]


def test_a_file_written_a_moment_ago_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    monkeypatch.setattr(stamps, "TICK_NS", 3_600_000_000_000)
    picture(tmp_path / "a.png", 0)
    run(tmp_path, ["a.png"])
    run(tmp_path, ["a.png"])
    assert reads == ["a.png", "a.png"]


def test_a_smaller_limit_holds_for_remembered_files_too(tmp_path: Path, reads: list[str]) -> None:
    picture(tmp_path / "a.png", 0, height=10, width=10)
    assert isinstance(run(tmp_path, ["a.png"], 100)[0], Facts)
    (failure,) = run(tmp_path, ["a.png"], 99)
    assert isinstance(failure, Failure) and "max_pixels (99)" in failure.reason


def test_every_kind_of_bad_file_is_a_failure_with_its_own_reason(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png", 0).read_bytes()
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere.png").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would hang
    names = ["empty.png", "cut.png", "text.jpg", "folder.png", "nowhere.png", "pipe.png", "gone.png", "whole.png"]
    *failures, last = run(tmp_path, names)
    assert isinstance(last, Facts)
    assert [f.path for f in failures if isinstance(f, Failure)] == names[:-1]
    reasons = [f.reason for f in failures if isinstance(f, Failure)]
    for reason, words in zip(
        reasons,
        ["empty", "truncated", "not an image", "not a file", "No such file", "not a file", "No such file"],
        strict=True,
    ):
        assert words in reason


def test_a_name_that_is_no_unicode_is_a_failure(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(raw, "wb") as f:  # noqa: PTH123
            f.write(b"x")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert run(tmp_path, [os.fsdecode(b"caf\xe9.png")]) == [Failure("caf\\udce9.png", "the name is not valid Unicode")]


def test_batches_leave_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_BATCH", 3)
    paths = [picture(tmp_path / f"{i}.png", i).name for i in range(8)]
    whole = [hashlib.sha256((tmp_path / p).read_bytes()).hexdigest() for p in paths]
    assert [f.sha256 for f in run(tmp_path, paths) if isinstance(f, Facts)] == whole


def test_a_damaged_or_foreign_memory_is_made_anew(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    path = cache_root() / "files.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all" * 100)
    first = run(tmp_path, ["a.png"])
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE files")
        db.execute("CREATE TABLE files (other)")
        db.execute("PRAGMA user_version = 99")
    assert run(tmp_path, ["a.png"]) == first


def test_a_cache_that_cannot_be_made_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="can't be used"):
        run(tmp_path, ["a.png"])


def test_a_memory_that_cannot_be_used_is_told_once_and_every_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (cache_root() / "files.sqlite").mkdir(parents=True)
    monkeypatch.setattr(verify, "_BATCH", 1)
    paths = [picture(tmp_path / f"{i}.png", i).name for i in range(3)]
    assert run(tmp_path, paths) == run(tmp_path, paths)
    assert reads == 2 * paths
    assert caplog.text.count("can't be used") == 2  # one a run


def test_two_users_of_one_memory(tmp_path: Path) -> None:
    one, two = Memory(tmp_path / "m"), Memory(tmp_path / "m")
    stamp, facts = Stamp(1, 2, 3), Facts("f" * 64, 4, 5)
    one.put([("/a", stamp, facts)])
    two.put([("/b", stamp, facts)])
    same = {"/a": stamp, "/b": stamp, "/c": stamp}
    assert one.get(same) == two.get(same) == {"/a": facts, "/b": facts}
    assert one.get({"/a": Stamp(1, 2, 4)}) == {}
    one.close()
    two.close()


def test_what_needs_more_memory_than_there_is_is_a_failure_with_the_number(tmp_path: Path, reads: list[str]) -> None:
    Image.new("L", (1600, 1600)).save(tmp_path / "large.png")
    picture(tmp_path / "small.png", 0)
    paths = ["large.png", "small.png"]
    for memory_mb, fits in ((128, True), (16, False), (128, True)):
        large, small = run(tmp_path, paths, 10**7, memory_mb)
        assert isinstance(small, Facts) and isinstance(large, Facts) == fits
        if isinstance(large, Failure):
            assert (
                large.reason == "needs 37 MB of memory, more than codes.compute.memory_mb (16)"
                and large.kind == "too_large"
            )
    # One that is remembered is looked at again where it might not fit.
    assert reads == ["large.png", "small.png", "large.png"]


def test_what_the_decoder_tells_is_remembered_and_dark_pictures_are_named(
    tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Pictures of 12 bits in files of 16, and one whose pixels the second version of the decoder changed."""
    twelve = np.random.default_rng(0).integers(0, 1 << 12, (9, 9, 1))
    for name, samples in {"dark.png": twelve, "light.png": twelve * 16}.items():
        (tmp_path / name).write_bytes(png(samples, 16, 0))
    (tmp_path / "keyed.png").write_bytes(png(twelve % 16, 4, 0, key=b"\0\3"))
    names = ["dark.png", "keyed.png", "light.png"]
    for _ in range(2):
        found = run(tmp_path, names)
        assert [(f.decoder, f.dark) for f in found if isinstance(f, Facts)] == [(1, True), (2, False), (1, False)]
        assert "1 file(s) of 16 bits use the lowest 12 or fewer, and are shown almost black (dark.png)" in caplog.text
        caplog.clear()
    assert sorted(reads) == names


def test_images_that_do_not_fit_together_are_checked_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seen, lock = [0], [], threading.Lock()
    inspect = verify.inspect

    def counted(*args: object, **how: int) -> object:
        with lock:
            now[0] += 1
            seen.append(now[0])
        try:
            return inspect(*args, **how)  # type: ignore[arg-type]
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(verify, "inspect", counted)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for i in range(6):
        Image.new("RGB", (1000, 1000), (i, 0, 0)).save(tmp_path / f"{i}.png")
    assert all(isinstance(one, Facts) for one in run(tmp_path, [f"{i}.png" for i in range(6)], 10**6, 16))
    assert max(seen) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_or_stopped_has_remembered_what_it_read(
    how: signal.Signals, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL: all but the last half a minute; here none. The second run reads the rest."""
    paths = [picture(tmp_path / f"images/{i:02d}.png", i).name for i in range(12)]
    check = verify._check

    def one_ends(folder: str, path: str, max_pixels: int, room: Room) -> verify._Checked:
        if path == paths[8]:
            time.sleep(0.2)  # the results of those before are taken up by now
            os.kill(os.getpid(), how)
            time.sleep(0.2)
        return check(folder, path, max_pixels, room)

    if (child := os.fork()) == 0:
        try:
            stopping.KEEP_EVERY_S = 0.0 if how == signal.SIGKILL else 30.0
            verify._check = one_ends  # type: ignore[assignment]
            run(tmp_path / "images", paths)
        except KeyboardInterrupt as e:
            (tmp_path / "said").write_text(e.__notes__[0])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert len(run(tmp_path / "images", paths)) == 12
    assert set(paths[8:]) <= set(reads) < set(paths)
    if how == signal.SIGINT:
        assert sorted(reads) == paths[8:]
        assert (tmp_path / "said").read_text() == "8 of 12 files are checked; the same command goes on from there"
