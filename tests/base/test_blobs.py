"""The contract of a place for named bytes, which each kind of place passes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.blobs import Blobs, Folder
from pipeline.base.errors import UserError

ROOT = Path(__file__).parents[2]
# Kind of place -> how to make one from an empty folder.
PLACES: dict[str, Callable[[Path], Blobs]] = {"folder": lambda path: Folder(path / "store")}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    made: Blobs = PLACES[request.param](tmp_path)
    return made


def test_what_is_put_is_read(place: Blobs) -> None:
    assert place.names() == []
    assert place.put("a.bin", b"0123456789") and place.put("x/y/b.bin", memoryview(b"xyz"))
    assert place.read("a.bin") == b"0123456789" and place.size("x/y/b.bin") == 3
    assert place.local("x/y/b.bin").read_bytes() == b"xyz"
    assert place.put("a.bin", b"") and place.read("a.bin") == b"" and place.size("a.bin") == 0


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 4), (3, 3), (3, 7), (8, None), (8, 20), (10, None), (50, None), (50, 60), (5, 2)]
)
def test_a_range_is_that_of_a_slice(place: Blobs, start: int, stop: int | None) -> None:
    data = b"0123456789"
    place.put("a", data)
    assert place.read("a", start, stop) == data[start:stop]


def test_names_are_sorted_and_begin_with_the_prefix(place: Blobs) -> None:
    for name in ("b", "k/shard-2.h5", "k/shard-1.h5", "k/shard-1.ids", "k2/shard-1.h5"):
        place.put(name, b"x")
    assert place.names() == ["b", "k/shard-1.h5", "k/shard-1.ids", "k/shard-2.h5", "k2/shard-1.h5"]
    assert place.names("k/") == ["k/shard-1.h5", "k/shard-1.ids", "k/shard-2.h5"]
    assert place.names("k/shard-1") == ["k/shard-1.h5", "k/shard-1.ids"]
    assert place.names("k") == ["k/shard-1.h5", "k/shard-1.ids", "k/shard-2.h5", "k2/shard-1.h5"]
    assert place.names("none") == [] == place.names("none/x")


def test_one_that_is_there_stays_if_asked(place: Blobs) -> None:
    assert place.put("a", b"first", if_absent=True)
    assert not place.put("a", b"second", if_absent=True)
    assert place.read("a") == b"first" and place.names() == ["a"]
    assert place.put("a", b"third") and place.read("a") == b"third"


def test_of_many_that_put_a_name_at_once_one_is_told_so(place: Blobs) -> None:
    begin, told = threading.Barrier(8), []

    def put(number: int) -> None:
        begin.wait()
        told.append((place.put("a", bytes([number]) * 1000, if_absent=True), number))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [number for first, number in told if first]
    assert len(told) == 8 and place.read("a") == bytes([winner]) * 1000 and place.names() == ["a"]


def test_a_name_that_is_not_there(place: Blobs) -> None:
    place.put("a", b"x")
    place.remove("a")
    for ask in (place.read, place.size, place.remove):
        with pytest.raises(FileNotFoundError):
            ask("a")
    assert place.names() == []


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", ".a", "a/.b", "a\0", "a/", "a\n"])
def test_what_is_not_a_name_is_refused(place: Blobs, name: str) -> None:
    for ask in (place.read, place.size, place.remove, place.local, lambda name: place.put(name, b"x")):
        with pytest.raises(ValueError, match="is not a name"):
            ask(name)


def test_a_writer_that_is_killed_leaves_no_name(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom pipeline.base import blobs, disk\n"
        "disk.sync = lambda path: os._exit(9)\n"
        "blobs.Folder(Path(sys.argv[1])).put('a', b'half', if_absent=len(sys.argv) > 2)\n"
    )
    for more in ([], ["if absent"]):
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), *more], check=False, cwd=ROOT)
        assert killed.returncode == 9
    assert list(tmp_path.iterdir()) and Folder(tmp_path).names() == []
    assert Folder(tmp_path).put("a", b"whole", if_absent=True) and Folder(tmp_path).read("a") == b"whole"


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file"):
        Folder(tmp_path / "file").put("a", b"x")


def test_without_hard_links_a_name_is_still_put_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", none)
    place = Folder(tmp_path)
    assert place.put("a", b"1", if_absent=True) and not place.put("a", b"2", if_absent=True)
    assert place.read("a") == b"1" and place.names() == ["a"]
