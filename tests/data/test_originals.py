"""What was hashed when it was listed is read without being hashed again, unless it may have changed."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.cache import cache_root
from pipeline.data import listed, originals, stamps
from pipeline.data.colours import Pixels
from pipeline.data.decode import decode
from pipeline.data.listed import ChangedError
from pipeline.data.memory import Facts, Memory
from pipeline.data.room import Room
from pipeline.data.stamps import Stamp
from pipeline.data.verify import verify
from tests.data.world import picture


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that was listed; its times settle at once."""
    monkeypatch.setattr(stamps, "TICK_NS", -1)
    path = picture(tmp_path / "photos/1.png", 0)
    assert all(isinstance(f, Facts) for f in verify(path.parent, [path.name], max_pixels=1000, room=Room(64)))
    return path


def read(path: Path, digest: str) -> Pixels:
    with originals.remembered() as there, path.open("rb") as opened:
        return there.decode(path, opened, digest, background=(0, 0, 0), max_pixels=1000)


def no_hashing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hashlib, "sha256", lambda *_: pytest.fail("hashed again"))


def test_a_file_that_is_the_same_is_not_hashed_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    no_hashing(monkeypatch)
    assert np.array_equal(read(file, digest), decode(data, max_pixels=1000))
    with pytest.raises(BaseException, match="hashed again"):
        read(file, "f" * 64)  # the memory is of another file than the list


def test_bytes_of_the_same_length_and_mtime_are_seen_to_be_others(file: Path) -> None:
    data, status = file.read_bytes(), file.stat()
    digest = hashlib.sha256(data).hexdigest()
    file.write_bytes(data[:-1] + b"x")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ChangedError, match="the file changed since the dataset was listed"):
        read(file, digest)


def test_a_file_that_is_not_known_is_hashed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setenv("CNNCODES_CACHE", str(file.parent / "empty"))
    assert np.array_equal(read(file, digest), decode(file, max_pixels=1000))
    with pytest.raises(ChangedError):
        read(file, "f" * 64)


def test_files_of_a_folder_that_was_renamed_are_still_known(file: Path) -> None:
    """But not those of a folder whose name only begins alike."""
    beside = file.parent.with_name("photos-2") / "1.png"
    stamp, facts = Stamp.of(file.stat()), Facts("f" * 64, 4, 5)
    memory = Memory(cache_root() / "files.sqlite")
    memory.put([(str(beside), stamp, facts)])
    to = file.parent.rename(file.parent.with_name("moved"))
    memory.move(str(file.parent), str(to))
    assert list(memory.get({str(to / "1.png"): Stamp.of((to / "1.png").stat())})) == [str(to / "1.png")]
    assert memory.get({str(file): stamp}) == {} and memory.get({str(beside): stamp}) == {str(beside): facts}
    memory.close()


def test_a_listed_file_is_hashed_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    no_hashing(monkeypatch)
    assert listed.read(file, digest) == data


def test_what_an_earlier_version_remembered_was_decoded_and_is_whole(file: Path) -> None:
    path = cache_root() / "files.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE files DROP COLUMN whole")
        db.execute("PRAGMA user_version = 2")
    db.close()
    for _ in range(2):
        memory = Memory(path)
        (facts,) = memory.get({str(file): Stamp.of(file.stat())}).values()
        assert facts.whole and facts.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        memory.close()
