"""What an added folder says of images: they take the label and split that it gives now, and a content is one image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import collection
from pipeline.base.errors import UserError
from pipeline.collection import Added, Collection
from tests.codes.conftest import draw
from tests.test_collection import SMALL

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # labels and splits, whatever the codes


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/{cat,dog}/0.png and 1.png, my.index of it, and a cache."""
    root = tmp_path_factory.mktemp("relabel")
    for i in range(4):
        draw(root / "photos" / ("cat", "dog")[i // 2] / f"{i % 2}.png", i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(root / "cache"))
        make(root, root / "photos")
    return root


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ and an index of it, of their own."""
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    shutil.copytree(built / "photos", tmp_path / "photos")
    make(tmp_path, tmp_path / "photos")
    return tmp_path


def make(world: Path, photos: Path, **more: Any) -> None:
    shutil.rmtree(world / "my.index", ignore_errors=True)
    collection.build(photos, world / "my.index", long=[], **more, **SMALL)


def add(world: Path, folder: str) -> dict[str, int]:
    """What came of it, without zeros; a file counts once."""
    done: Added = collection.add(world / "my.index", world / folder)
    assert done.images == len(Collection.open(world / "my.index"))
    return {k: v for k, v in done.as_json().items() if v and k not in ("images", "note")}


def seen(world: Path) -> dict[str, str]:
    """Path below `world` -> label of every image."""
    found = Collection.open(world / "my.index")
    return {str(found.file(r).relative_to(world)): str(found.labels[r]) for r in range(len(found))}


BOTH = {"photos/cat/0.png": "cat", "photos/cat/1.png": "cat", "photos/dog/0.png": "dog", "photos/dog/1.png": "dog"}


@pytest.mark.parametrize("way", ["photos/cat", "photos/cat/deep", "link/cat", "kitten"])
def test_a_folder_below_the_root_has_the_roots_labels(world: Path, way: str) -> None:
    (world / "link").symlink_to("photos")
    (world / "kitten").symlink_to("photos/cat")
    new = "photos/cat/deep/9.png"
    draw(world / new, 9)
    assert add(world, way) == {"added": 1} | ({"known": 2} if "deep" not in way else {})
    assert seen(world) == BOTH | {new: "cat"}
    assert add(world, "photos") == {"known": 5}
    assert Collection.open(world / "my.index").made_by["roots"] == [str(world / "photos")]


def test_splits_too(world: Path) -> None:
    for i, split in enumerate(("train", "test")):
        draw(world / "cut" / split / "cat" / f"{i}.png", 20 + i)
    make(world, world / "cut", dataset={"splits": "folders"})
    draw(world / "cut/test/dog/2.png", 22)
    assert add(world, "cut/test/dog") == {"added": 1}
    (world / "cut/train/cat/0.png").rename(world / "cut/test/cat/0.png")
    assert add(world, "cut/test") == {"known": 2, "moved": 1}
    found = Collection.open(world / "my.index")
    assert set(found.splits) == {"test"} and sorted(found.labels) == ["cat", "cat", "dog"]


def test_a_changed_labels_csv(world: Path) -> None:
    table = world / "photos/labels.csv"
    table.write_text("path,label\ncat/0.png,tabby\ncat/1.png,a much longer name\ndog/0.png,dog\ndog/1.png,\n")
    assert add(world, "photos") == {"known": 1, "relabelled": 3}
    want = dict(zip(BOTH, ("tabby", "a much longer name", "dog", ""), strict=True))
    assert seen(world) == want
    table.write_text("path,label,split\ncat/0.png,tabby,train\ncat/1.png,tom,test\n")
    assert add(world, "photos") == {"known": 1, "relabelled": 1}
    assert seen(world) == want | {"photos/cat/1.png": "tom"}
    found = Collection.open(world / "my.index")
    assert {n.path.name for n in found.search_id(str(found.ids[0]), split="test").neighbours} <= {"1.png"}
    table.write_text("path,label,split\ncat/0.png,tabby,val\ncat/1.png,tom,test\n")
    assert add(world, "photos/cat") == {"known": 1, "relabelled": 1}  # the nearest labels.csv, from above
    table.unlink()
    assert add(world, "photos/cat") == {"relabelled": 2}
    assert add(world, "photos") == {"known": 3, "relabelled": 1}
    assert seen(world) == BOTH


def test_what_labels_csv_does_not_list_is_an_error_that_says_so(world: Path) -> None:
    (world / "photos/labels.csv").write_text("path,label\ncat/0.png,tabby\n")
    draw(world / "photos/bird/0.png", 40)
    with pytest.raises(UserError, match=r"photos/bird holds no images, or none that .*photos lists"):
        add(world, "photos/bird")
    (world / "photos/bird/labels.csv").write_text("path,label\n0.png,wren\n")
    assert add(world, "photos/bird") == {"added": 1}
    assert seen(world) == BOTH | {"photos/bird/0.png": "wren"}


def test_a_root_that_turns_out_to_be_a_class_folder(world: Path) -> None:
    make(world, world / "photos/cat")
    assert set(seen(world).values()) == {""}
    assert add(world, "photos") == {"added": 2, "relabelled": 2}
    assert seen(world) == BOTH
    assert add(world, "photos/cat") == {"known": 2}


def test_a_folder_above_gives_its_own_labels_and_the_first_one_takes_them_back(world: Path) -> None:
    (world / "above").mkdir()
    (world / "photos").rename(world / "above/photos")
    make(world, world / "above/photos")
    assert add(world, "above") == {"relabelled": 4}
    assert set(seen(world).values()) == {"photos"}
    assert add(world, "above/photos") == {"relabelled": 4}
    assert seen(world) == {f"above/{path}": label for path, label in BOTH.items()}
    assert add(world, "above/photos/cat") == {"known": 2}


@pytest.mark.parametrize("copy", [shutil.copytree, lambda a, b: b.symlink_to(a)])
def test_equal_files_by_another_path_are_one_image(world: Path, copy: Any) -> None:
    copy(world / "photos", world / "other")
    assert add(world, "other") == {"known": 4}
    assert add(world, "other/cat") == {"known": 2}
    assert seen(world) == BOTH
    assert Collection.open(world / "my.index").made_by["roots"] == [str(world / "photos")]


def test_equal_new_files_are_one_image_with_the_label_that_one_of_them_has(world: Path) -> None:
    draw(world / "photos/a stray one.png", 50)
    draw(world / "photos/dog/z.png", 50)
    for _ in range(2):
        done = add(world, "photos")
        assert seen(world) == BOTH | {"photos/dog/z.png": "dog"}
    assert done == {"known": 6}


def test_a_copy_gives_a_label_where_there_was_none_and_takes_none_away(world: Path) -> None:
    for i in range(2):
        draw(world / "flat" / f"{i}.png", 60 + i)
    assert add(world, "flat") == {"added": 2}
    draw(world / "sorted/bird/x.png", 60)
    assert add(world, "sorted") == {"relabelled": 1}
    want = BOTH | {"flat/0.png": "bird", "flat/1.png": ""}
    assert seen(world) == want
    shutil.copytree(world / "photos/cat", world / "inbox")
    draw(world / "fish/cod/1.png", 0)  # a cat, under another label
    assert add(world, "inbox") == {"known": 2}
    assert add(world, "fish") == {"known": 1}
    assert seen(world) == want


def test_a_file_overwritten_by_a_copy_of_another(world: Path) -> None:
    shutil.copy(world / "photos/dog/0.png", world / "photos/cat/0.png")
    assert add(world, "photos") == {"replaced": 1, "known": 3}
    without = {path: label for path, label in BOTH.items() if path != "photos/cat/0.png"}
    assert seen(world) == without
    assert add(world, "photos") == {"known": 4}
    assert seen(world) == without


def test_files_that_swap_places(world: Path) -> None:
    one, two = world / "photos/cat/0.png", world / "photos/dog/0.png"
    one.rename(world / "aside")
    two.rename(one)
    (world / "aside").rename(two)
    assert sum(add(world, "photos").values()) == 4
    assert seen(world) == BOTH
    assert collection.verify(world / "my.index", files=True) == []
