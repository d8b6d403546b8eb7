"""Links in a folder of images lead where its owner said, and nowhere else."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import UserError
from pipeline.data import digests
from pipeline.data.asked import files_of
from pipeline.data.build import build
from pipeline.data.left_out import LeaveOut
from pipeline.data.links import Links, NotFollowedError
from pipeline.data.manifest import Failure, read_failures
from pipeline.data.sources import SOURCES, folder, labels_csv
from pipeline.data.sources.base import Record
from tests.data.world import params, picture

KEY = "SHA256E-s123--" + "ab" * 32 + ".png"


@pytest.fixture(autouse=True)
def _no_config_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))


def followed(root: Path, *, follow: bool = False) -> tuple[list[str], list[str]]:
    """Paths that the walk gives, and links that it doesn't follow."""
    left_out: list[Failure] = []
    found = sorted(folder.walk(str(root), LeaveOut(), Links(str(root), follow=follow), left_out))
    return found, sorted(f.path for f in left_out if f.kind == "not_followed")


def link(path: Path, target: str | Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def test_links_inside_are_followed_and_those_out_of_it_are_not(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    picture(root / "cat/1.png", 0)
    secret = picture(tmp_path / "home/secret.png", 1)
    picture(tmp_path / "photos too/2.png", 2)  # whose name begins like the root's
    link(root / "cat/by name.png", "1.png")
    link(root / "dog", root / "cat")
    link(root / "cat/secret.png", secret)
    link(root / "cat/round about.png", "../../photos/cat/../../home/secret.png")
    link(root / "cat/twice.png", "secret.png")
    link(root / "cat/gone.png", tmp_path / "home/nothing")
    link(root / "cat/here no more.png", "nothing")
    link(root / "cat/device", "/dev/zero")
    link(root / "home", secret.parent)
    link(root / "top", "/")
    link(root / "neighbour", "../photos too")
    out = ["cat/device", "cat/gone.png", "cat/round about.png", "cat/secret.png", "cat/twice.png"]
    assert followed(root) == (
        [f"{c}/{n}" for c in ("cat", "dog") for n in ("1.png", "by name.png", "here no more.png")],
        [*out, *(p.replace("cat", "dog") for p in out), "home", "neighbour", "top"],
    )
    (root / "top").unlink()
    found, none = followed(root, follow=True)
    assert none == [] and {"home/secret.png", "cat/secret.png", "neighbour/2.png"} <= set(found)


def test_a_root_that_is_a_link_is_what_the_user_named(tmp_path: Path) -> None:
    picture(tmp_path / "disk/photos/1.png", 0)
    link(tmp_path / "disk/photos/2.png", "1.png")
    link(tmp_path / "disk/photos/3.png", tmp_path / "disk/photos/1.png")
    for way in (link(tmp_path / "photos", "disk/photos"), tmp_path / "disk/photos", Path(f"{tmp_path}/photos/")):
        assert followed(way) == (["1.png", "2.png", "3.png"], [])


DIGEST = "ab" * 15
CACHES: dict[str, Callable[[Path], Path]] = {
    "of version 3": lambda repo: repo / f".dvc/cache/files/md5/cd/{DIGEST}",
    "of version 2": lambda repo: repo / f".dvc/cache/cd/{DIGEST}",
    "shared": lambda repo: repo.parent / f"shared cache/files/md5/cd/{DIGEST}",
    "of this user": lambda repo: repo.parent / f"of all/files/md5/cd/{DIGEST}",
}


@pytest.mark.parametrize("where", CACHES)
@pytest.mark.parametrize("relative", [False, True])
def test_the_caches_of_dvc(tmp_path: Path, where: str, relative: bool) -> None:
    repo = tmp_path / "repo"
    (repo / ".dvc").mkdir(parents=True)
    (repo / ".dvc/config").write_text("[core]\n    autostage = true\n[cache]\n    dir = ../../shared cache\n")
    (tmp_path / "config/dvc").mkdir(parents=True)
    (tmp_path / "config/dvc/config").write_text(f"[cache]\ndir = {tmp_path}/of all\n")
    target = picture(CACHES[where](repo), 0)
    own = repo / "data/photos/cat/1.png"
    link(own, os.path.relpath(target, own.parent) if relative else target)
    other = picture(target.parents[3] / "other.png", 1)  # near the cache, and none of its files
    link(repo / "data/photos/cat/2.png", other)
    assert followed(repo / "data/photos") == (["cat/1.png"], ["cat/2.png"])
    assert followed(link(tmp_path / "photos", repo / "data/photos")) == (["cat/1.png"], ["cat/2.png"])
    shutil.rmtree(repo / ".dvc")
    assert followed(repo / "data/photos")[0] == []


@pytest.mark.parametrize("config", ["[cache]\ndir = /\n", "no config", "[cache\n", "[cache]\ndir = \xff"])
def test_a_strangers_config_opens_nothing_but_files_of_a_cache(tmp_path: Path, config: str) -> None:
    (tmp_path / "repo/.dvc").mkdir(parents=True)
    (tmp_path / "repo/.dvc/config").write_text(config, encoding="latin-1")
    secret = picture(tmp_path / "home/ab/secret.png", 1)
    link(tmp_path / "repo/photos/1.png", secret)
    link(tmp_path / "repo/photos/2", secret.parent)
    assert followed(tmp_path / "repo/photos") == ([], ["1.png", "2"])


def test_git_annex(tmp_path: Path) -> None:
    """The link of a locked file is relative; in a submodule .git is a link itself; unlocked files are none."""
    repo = tmp_path / "repo"
    own = picture(repo / f".git/annex/objects/0x/1Q/{KEY}/{KEY}", 0)
    link(repo / "photos/cat/1.png", f"../../.git/annex/objects/0x/1Q/{KEY}/{KEY}")
    link(
        repo / "photos/cat/not fetched.png",
        f"../../.git/annex/objects/0x/1Q/{KEY.replace('a', 'c')}/{KEY.replace('a', 'c')}",
    )
    picture(repo / "photos/cat/unlocked.png", 1)
    inner = picture(repo / f".git/modules/sub/annex/objects/Zz/9k/{KEY}/{KEY}", 2)
    link(repo / "photos/sub/.git", "../../.git/modules/sub")
    link(repo / "photos/sub/2.png", f".git/annex/objects/Zz/9k/{KEY}/{KEY}")
    link(repo / "photos/secret.png", picture(repo / ".git/annex/objects/secret.png", 3))
    link(repo / "photos/config", repo / ".git/config")
    assert followed(repo / "photos") == (
        ["cat/1.png", "cat/not fetched.png", "cat/unlocked.png", "sub/2.png"],
        ["config", "secret.png"],
    )
    other = tmp_path / "other/photos"
    link(other / "1.png", own)
    link(other / "2.png", inner)
    assert followed(other) == ([], ["1.png", "2.png"])  # files of a repository that the link doesn't lie in


def test_what_is_not_followed_is_listed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "photos"
    for i in range(6):
        picture(root / f"{'cat' if i % 2 else 'dog'}/{i}.png", i)
    link(root / "cat/secret.png", picture(tmp_path / "secret.png", 9))
    link(root / "bird", tmp_path)
    caplog.set_level(logging.INFO)
    assert len(build(params(root=root, max_failed_share=0.0), tmp_path / "out/dataset", labels_needed=False)) == 6
    failures = read_failures(tmp_path / "out/dataset")
    assert [(f.path, f.kind) for f in failures] == [("bird", "not_followed"), ("cat/secret.png", "not_followed")]
    (line,) = [line for line in caplog.messages if "--follow-links" in line]
    assert line.startswith("2 links are not followed: 2 x ") and "bird, cat/secret.png" in line
    found = build(params(root=root, follow_links=True), tmp_path / "all/dataset", labels_needed=False)
    assert {"cat/secret.png", "bird/secret.png"} <= set(found.paths.tolist())


def test_a_folder_of_links_alone_says_what_to_do(tmp_path: Path) -> None:
    link(tmp_path / "photos/1.png", picture(tmp_path / "1.png", 0))
    with pytest.raises(UserError, match=r"--follow-links"):
        build(params(root=tmp_path / "photos"), tmp_path / "out/dataset", labels_needed=False)
    with pytest.raises(UserError, match=r"holds no images but 1.png, a link out of the folder.*--follow-links"):
        files_of([tmp_path / "photos"])
    assert files_of([tmp_path / "photos"], follow_links=True).files == [tmp_path / "photos/1.png"]
    assert files_of([tmp_path / "photos/1.png"]).files == [tmp_path / "photos/1.png"]  # which the user named


def test_rows_of_labels_csv_lead_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    picture(root / "1.png", 0)
    picture(tmp_path / "home/2.png", 1)
    link(root / ".far", tmp_path / "home")
    link(root / "3.png", tmp_path / "home/2.png")
    (root / "labels.csv").write_text("path,label\n1.png,a\n.far/2.png,b\n3.png,c\n")

    def listed(**changes: bool) -> tuple[list[str], list[str]]:
        found = SOURCES["folder"](params(root=root, **changes), tmp_path)
        return [r.path for r in found.records], [f.path for f in found.left_out if f.kind == "not_followed"]

    assert listed() == (["1.png"], [".far/2.png", "3.png"])
    assert listed(follow_links=True) == (["1.png", ".far/2.png", "3.png"], [])
    (root / "labels.csv").rename(tmp_path / "home/labels.csv")
    link(root / "labels.csv", tmp_path / "home/labels.csv")
    with pytest.raises(UserError, match=r"labels.csv is a link out of the folder"):
        listed()
    assert len(listed(follow_links=True)[0]) == 3


def swap_file(root: Path) -> None:
    (root / "cat/1.png").unlink()
    link(root / "cat/1.png", root.parent / "home/1.png")


def swap_folder(root: Path) -> None:
    (root / "cat").rename(root.parent / "cats")
    link(root / "cat", root.parent / "home")


SWAPS = pytest.mark.parametrize("swap", [swap_file, swap_folder])
PLACES = pytest.mark.parametrize("proc", [True, False])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two of a class, and a picture elsewhere by the name of one of them."""
    picture(tmp_path / "photos/cat/1.png", 0)
    picture(tmp_path / "photos/dog/2.png", 1)
    picture(tmp_path / "home/1.png", 2)
    return tmp_path / "photos"


@SWAPS
@PLACES
def test_what_is_swapped_for_a_link_after_the_walk_is_not_read(
    photos: Path, tmp_path: Path, swap: Callable[[Path], None], proc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`proc`: on a system with /proc, and on one without."""
    if not proc:
        monkeypatch.setattr("pipeline.data.links._OPENED", "/no/such/folder")
    given = params(root=photos, max_failed_share=0.9, val_share=0.0, test_share=0.0)
    manifest = build(given, tmp_path / "out", labels_needed=False, known=lambda _: swap(photos))
    assert manifest.paths.tolist() == ["dog/2.png"]
    assert [(f.path, f.kind) for f in read_failures(tmp_path / "out")] == [("cat/1.png", "not_followed")]


@SWAPS
def test_what_is_swapped_has_no_digest(
    photos: Path, tmp_path: Path, swap: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk_then_swap(*args: Any) -> Iterator[str]:
        yield from folder.walk(*args)
        swap(photos)

    monkeypatch.setattr("pipeline.data.digests.walk", walk_then_swap)
    digests.write(str(photos), tmp_path / "files.csv", leave_out=[], follow_links=False)
    rows = dict(line.split(",") for line in (tmp_path / "files.csv").read_text().splitlines())
    assert rows["cat/1.png"] == "" and len(rows["dog/2.png"]) == 64


@SWAPS
def test_what_is_swapped_is_not_opened_for_an_answer(photos: Path, swap: Callable[[Path], None]) -> None:
    asked = files_of([photos])
    assert asked.files == [photos / "cat/1.png", photos / "dog/2.png"]
    swap(photos)
    with pytest.raises(NotFollowedError, match="link out of the folder"):
        asked.open(photos / "cat/1.png")
    asked.open(photos / "dog/2.png").close()
    files_of([photos / "cat/1.png"]).open(photos / "cat/1.png").close()  # which the user named


def test_a_labels_csv_that_is_swapped_is_not_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "labels.csv").write_text("path,label\ncat/1.png,cat\ndog/2.png,dog\n")
    secret = photos.parent / "secret.csv"
    secret.write_text("path,label\ncat/1.png,secret\n")
    read = labels_csv.read

    def swap_then_read(file: Path, *args: Any, **options: Any) -> list[Record]:
        file.unlink()
        link(file, secret)
        return read(file, *args, **options)

    monkeypatch.setattr("pipeline.data.sources.labels_csv.read", swap_then_read)
    with pytest.raises(UserError, match=r"labels.csv can't be read: a link out of the folder"):
        SOURCES["folder"](params(root=photos), photos.parent / "images")


def test_a_pipe_that_came_in_the_place_of_a_file_is_not_waited_for(photos: Path) -> None:
    links = Links(str(photos))
    (photos / "cat/1.png").unlink()
    os.mkfifo(photos / "cat/1.png")
    with pytest.raises(OSError, match="not a file"):
        links.open("cat/1.png")


@PLACES
def test_what_may_be_followed_is_opened(photos: Path, proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not proc:
        monkeypatch.setattr("pipeline.data.links._OPENED", "/no/such/folder")
    (photos / ".dvc").mkdir()
    kept = picture(photos / f".dvc/cache/files/md5/cd/{DIGEST}", 3)
    elsewhere = photos.parent / f"store/files/md5/cd/{DIGEST}"
    (photos / ".dvc/config").write_text(f"[cache]\ndir = {photos.parent / 'store'}\n")
    elsewhere.parent.mkdir(parents=True)
    kept.rename(elsewhere)
    link(photos / "cat/3.png", elsewhere)
    link(photos / "cat/4.png", "../dog/2.png")
    right = {"cat/1.png": photos / "cat/1.png", "cat/3.png": elsewhere, "cat/4.png": photos / "dog/2.png"}
    for path, real in right.items():
        with Links(str(photos)).open(path) as opened:
            assert opened.read() == real.read_bytes()
    link(photos / "cat/5.png", photos.parent / "home/1.png")
    with pytest.raises(NotFollowedError), Links(str(photos)).open("cat/5.png"):
        pass
    with Links(str(photos), follow=True).open("cat/5.png") as opened:
        assert opened.read() == (photos.parent / "home/1.png").read_bytes()
