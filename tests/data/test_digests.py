"""The file of digests: it changes when a photograph does, and costs no reading where nothing did."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.config import MEMORY_MB
from pipeline.data.digests import write
from pipeline.data.room import Room
from pipeline.data.sources import folder
from pipeline.data.verify import verify
from tests.pictures import draw_classes


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    return draw_classes(tmp_path / "photos", per_class=2)


def lines(root: Path, *leave_out: str) -> dict[str, str]:
    file = root.parent / "out/files.csv"
    write(str(root), file, leave_out=leave_out, follow_links=False)
    header, *rows = file.read_text().splitlines()
    assert header == "path,sha256" and rows == sorted(rows)
    return dict(row.rsplit(",", 1) for row in rows)


def test_every_file_stands_in_it_with_its_sha256(photos: Path) -> None:
    (photos / "labels.csv").write_text("path,label\n")
    found = lines(photos)
    assert len(found) == 7
    assert all(hashlib.sha256((photos / path).read_bytes()).hexdigest() == sha for path, sha in found.items())


def test_what_is_changed_added_or_removed_shows(photos: Path) -> None:
    before = lines(photos)
    (photos / "red/0.png").write_bytes((photos / "red/1.png").read_bytes())
    (photos / "blue/0.png").rename(photos / "blue/2.png")
    after = lines(photos)
    assert after["red/0.png"] == before["red/1.png"] != before["red/0.png"]
    assert after["blue/2.png"] == before["blue/0.png"] and "blue/0.png" not in after


def test_the_content_of_what_is_left_out_does_not_show(photos: Path) -> None:
    (photos / "Thumbs.db").write_text("a")
    before = lines(photos, "red/")
    assert before["Thumbs.db"] == before["red"] == "" and "red/0.png" not in before
    (photos / "Thumbs.db").write_text("b")
    assert lines(photos, "red/") == before


def test_what_is_remembered_is_not_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))
    monkeypatch.setattr("pipeline.data.stamps.TICK_NS", 0)
    list(verify(photos, paths, max_pixels=10**6, room=Room(MEMORY_MB)))
    first = lines(photos)
    monkeypatch.setattr(disk, "sha256", lambda path: pytest.fail(f"{path} was read"))
    assert lines(photos) == first


def test_what_cannot_be_read_stands_there_without_a_digest(photos: Path) -> None:
    (photos / "red/gone.png").symlink_to("nowhere")
    assert lines(photos)["red/gone.png"] == ""


def test_one_file_is_its_own_list(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "train.h5").write_bytes(b"x")
    write(str(tmp_path / "train.h5"), tmp_path / "files.csv", leave_out=[], follow_links=False)
    assert (tmp_path / "files.csv").read_text() == f"path,sha256\ntrain.h5,{hashlib.sha256(b'x').hexdigest()}\n"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        write(str(tmp_path / "nowhere"), tmp_path / "files.csv", leave_out=[], follow_links=False)


@pytest.mark.parametrize("way", ["standalone/tmpab12", "temp/tmpab12"])
def test_a_copy_of_the_project_says_where_the_photographs_are(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `dvc exp run --temp` makes one."""
    project = tmp_path / "my project"
    copy = project / ".dvc/tmp/exps" / way
    copy.mkdir(parents=True)
    (project / "photos").mkdir()
    monkeypatch.chdir(copy)
    full = re.escape(f"give the full path: -S dataset.root='{project / 'photos'}'")
    for ask in (
        lambda: write("photos", copy / "files.csv", leave_out=[], follow_links=False),
        lambda: folder.require_folder("photos"),
    ):
        with pytest.raises(UserError, match=f"photos does not exist in this copy of the project; {full}"):
            ask()
    for root in ("nowhere", "/nowhere"):
        with pytest.raises(UserError, match=f"{root} does not exist; allowed"):
            folder.require_folder(root)
    monkeypatch.chdir(project)
    (project / "photos").rmdir()
    with pytest.raises(UserError, match="photos does not exist; allowed"):
        folder.require_folder("photos")
