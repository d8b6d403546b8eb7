"""One folder in another's place: whole, or as it was."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base import folders


def made(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "a.txt").write_text(text)
    return folder


def read(folder: Path) -> list[tuple[str, str]]:
    return [(p.name, (p / "a.txt").read_text()) for p in sorted(folder.iterdir())]


@pytest.fixture(params=["exchanged", "in two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in two steps":
        monkeypatch.setattr(folders, "_exchanged", lambda a, b: False)
    return str(request.param)


def test_it_takes_the_place(way: str, tmp_path: Path) -> None:
    made(tmp_path / "it", "old")
    folders.put(made(tmp_path / "new", "new"), tmp_path / "it")
    assert read(tmp_path) == [("it", "new")]


def test_there_need_be_none(way: str, tmp_path: Path) -> None:
    folders.put(made(tmp_path / "new", "new"), tmp_path / "it")
    assert read(tmp_path) == [("it", "new")]


def refusing(which: str) -> Callable[[Path, Path], Path]:
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == which:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    return refused


@pytest.mark.parametrize("which", ["new", "it"])
def test_what_is_refused_changes_nothing(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_exchanged", lambda a, b: False)
    made(tmp_path / "it", "old")
    made(tmp_path / "new", "new")
    monkeypatch.setattr(Path, "rename", refusing(which))
    with pytest.raises(OSError, match="Input"):
        folders.put(tmp_path / "new", tmp_path / "it")
    assert read(tmp_path) == [("it", "old"), ("new", "new")]


def test_an_exchange_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    """Names of different kinds of place: the system says no, and not that it can't."""
    made(tmp_path / "it", "old")
    with pytest.raises(OSError, match="No such file") as e:
        folders.put(tmp_path / "missing", tmp_path / "it")
    assert e.value.errno == errno.ENOENT and read(tmp_path) == [("it", "old")]


def test_what_a_kill_leaves_aside_is_put_back(tmp_path: Path) -> None:
    made(tmp_path / ".it.old", "old")
    folders.put_back(tmp_path / "it")
    assert read(tmp_path) == [("it", "old")]
    made(tmp_path / ".it.old", "older")
    folders.put_back(tmp_path / "it")
    assert (tmp_path / "it/a.txt").read_text() == "old"


def test_a_scratch_folder_goes_though_the_disk_refuses_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removing, asked = folders.shutil.rmtree, []

    def refused_once(path: Path, *, ignore_errors: bool) -> None:
        asked.append(path)
        if len(asked) > 1:
            removing(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(folders.shutil, "rmtree", refused_once)
    with folders.scratch(tmp_path) as made:
        (made / "a.txt").write_text("a")
    assert asked == [made, made] and list(tmp_path.iterdir()) == []
