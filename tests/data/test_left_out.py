"""What systems and programs put among photographs is left out and said; what merely has such a name can be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import UserError
from pipeline.data.left_out import RULES, LeaveOut
from pipeline.data.links import Links
from pipeline.data.manifest import Failure
from pipeline.data.sources import folder
from tests.data.world import picture

SYSTEMS = [
    "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg",
    "cat/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/cat/1.jpg",
    "#snapshot/GMT-2024.01.01/cat/1.jpg",
    "@tmp/1.jpg",
    "cat/.@__thumb/default1.jpg",
    "cat/.streams/1.jpg",
    "@Recycle/1.jpg",
    "@Recently-Snapshot/1.jpg",
    "cat/Thumbs.db",
    "cat/THUMBS.DB",
    "cat/desktop.ini",
    "$RECYCLE.BIN/S-1-5-21/$R1.jpg",
    "System Volume Information/1.jpg",
    "cat/.DS_Store",
    "cat/._1.jpg",
    "cat/.AppleDouble/1.jpg",
    "__MACOSX/cat/._1.jpg",
    ".Spotlight-V100/1.jpg",
    ".Trashes/501/1.jpg",
    ".fseventsd/1",
    "cat/Icon\r",
    "Mine.photoslibrary/resources/derivatives/1.jpg",
    "Mine.photoslibrary/database/Photos.sqlite",
    "Mine.aplibrary/Previews/1.jpg",
    "Catalog Previews.lrdata/1/1.jpg",
    "Catalog Smart Previews.lrdata/1.dng",
    "Catalog.lrcat",
    "Catalog.lrcat-wal",
    "cat/CaptureOne/Cache/Proxies/1.jpg",
    "cat/[Originals]/1.jpg",
    "cat/Picasa.ini",
    ".Trash-1000/files/1.jpg",
    ".trashed-1700000000-1.jpg",
    ".snapshot/hourly.0/cat/1.jpg",
    ".zfs/snapshot/daily/cat/1.jpg",
    "~snapshot/1.jpg",
    "lost+found/1.jpg",
    "cat/.thumbnails/1.jpg",
    "cat/MVI_0001.THM",
    ".git/1.jpg",
    ".dvc/cache/1.jpg",
    "node_modules/site/logo.png",
    "cat/.ipynb_checkpoints/1-checkpoint.png",
    "__pycache__/1.pyc",
    "cat/1.jpg~",
    "cat/1.jpg.bak",
    "cat/1.jpg.tmp",
    "cat/1.jpg.crdownload",
    "cat/.1.jpg.swp",
    "cat/.hidden.jpg",
    "appdata_ocx1/preview/1.jpg",
]
PHOTOGRAPHS = [
    "cat/1.jpg",
    "#hashtag/1.jpg",
    "@someone/1.jpg",
    "thumbs/up.jpg",
    "previews/1.jpg",
    "snapshot/1.jpg",
    "backup.bak/1.jpg",
    "recycle/1.jpg",
    "originals/1.jpg",
    "tmp/1.jpg",
    "Mine.photoslibrary/originals/0/1.jpg",
    "Mine.aplibrary/Masters/1.jpg",
    "weights/1.jpg",
    "codes/1.jpg",
    "index/current.json.jpg",
]


def walked(root: Path, *patterns: str) -> tuple[list[str], list[Failure]]:
    left_out: list[Failure] = []
    return sorted(folder.walk(str(root), LeaveOut(patterns), Links(str(root)), left_out)), sorted(left_out)


def test_what_systems_make_is_left_out_and_photographs_stay(tmp_path: Path) -> None:
    for path in [*SYSTEMS, *PHOTOGRAPHS]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    kept, left_out = walked(tmp_path)
    assert kept == sorted(PHOTOGRAPHS)
    for path in SYSTEMS:
        above = [f for f in left_out if path == f.path or path.startswith(f"{f.path}/")]
        assert len(above) == 1 and above[0].kind == "left_out" and above[0].reason


def test_a_photo_library_as_the_root_gives_its_originals_alone(tmp_path: Path) -> None:
    root = tmp_path / "Mine.photoslibrary"
    for path in ("originals/0/1.jpg", "resources/derivatives/1.jpg", "Thumbnails/1.jpg"):
        (root / path).parent.mkdir(parents=True)
        (root / path).touch()
    assert walked(root)[0] == ["originals/0/1.jpg"]


def test_the_root_itself_may_have_any_name(tmp_path: Path) -> None:
    picture(tmp_path / "@eaDir/cat/1.png", 0)
    assert walked(tmp_path / "@eaDir") == (["cat/1.png"], [])


def test_patterns_are_those_of_gitignore_and_have_the_last_word(tmp_path: Path) -> None:
    for path in (
        "cat/1.png",
        "cat/drafts/2.png",
        "dog/3.gif",
        "top/4.png",
        "dog/top/5.png",
        "#x/6",
        "@eaDir/7.png",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    kept, left_out = walked(tmp_path, "drafts/", "*.gif", "/top", "#x", "!@eaDir")
    assert kept == ["@eaDir/7.png", "cat/1.png", "dog/top/5.png"]
    assert {f.path for f in left_out} == {"cat/drafts", "dog/3.gif", "top", "#x"}
    assert "'drafts/'" in next(f.reason for f in left_out if f.path == "cat/drafts")


@pytest.mark.parametrize("pattern", ["!", "/", " ", "[a"])
def test_a_pattern_that_fits_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="leave_out"):
        LeaveOut(["*.gif", pattern])


def test_a_name_that_is_no_unicode_can_be_told(tmp_path: Path) -> None:
    name = b"caf\xe9.bak"
    try:
        (tmp_path / name.decode(errors="surrogateescape")).touch()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert [f.path for f in walked(tmp_path)[1]] == ["caf\\udce9.bak"]


def test_rules_are_in_lower_case_as_names_are_compared() -> None:
    for rule in RULES:
        assert rule.reason and all(p == p.lower() for p in (*rule.folders, *rule.files))


@pytest.mark.parametrize(
    "made",
    [
        ("codes/dataset/dataset.json", "codes/dataset/manifest.csv", "codes/codes/pool5-avg/codes.json"),
        ("codes/weights/weights.safetensors",),
        ("codes/dataset/failures.csv",),
        ("dataset/dataset.json", "dataset/manifest.csv"),
        ("pool5-avg/codes.json", "pool5-avg/part-00000.h5"),
        ("my.index/current.json", "my.index/gen-000001/manifest.json"),
        ("cat/deep/figures/figures.json", "cat/deep/figures/about.json", "cat/deep/figures/metrics.json"),
        ("cat/deep/report/index.html", "cat/deep/report/metrics.json", "cat/deep/report/table.csv"),
        ("cache/files.sqlite", "cache/codes/key/shard-1.h5"),
    ],
)
def test_folders_that_this_program_fills_are_left_out(tmp_path: Path, made: tuple[str, ...]) -> None:
    for path in (*made, "cat/1.png", "dog/2.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    kept, left_out = walked(tmp_path)
    assert kept == ["cat/1.png", "dog/2.png"]
    assert [f.reason.startswith("made by cnncodes") for f in left_out] == [True]
