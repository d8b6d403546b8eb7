"""The manifest comes back from disk as it was, whatever the names; one that was changed is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.data.listed import stays_below
from pipeline.data.manifest import Failure, Manifest, read_failures

SHA = ["0" * 64, "1" * 64, "2" * 64]
ODD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "root": Path("photos"),
        "source": "folder",
        "ids": np.array([s[:16] + "-0" for s in SHA]),
        "paths": np.array(["a/1.png", "b/2.png", "a/3.png"]),
        "labels": np.array(["a", "b", "a"]),
        "groups": np.array(["", "", "g"]),
        "sha256": np.array(SHA),
        "widths": np.array([1, 2, 3]),
        "heights": np.array([4, 5, 6]),
        "splits": np.array([["train", "val", "test"], ["test", "train", "train"]]),
        "seed": 7,
        "from_source": (),
    }
    return Manifest(**(values | changes))


def test_what_rows_and_targets_mean() -> None:
    m = manifest()
    assert m.classes == ("a", "b")
    assert m.targets.tolist() == [0, 1, 0]
    assert m.rows("train", 1).tolist() == [1, 2]
    assert m.rows("test").tolist() == [2]
    assert m.file(1) == Path("photos/b/2.png")


def test_without_labels_there_are_no_classes() -> None:
    m = manifest(labels=np.array(["", "", ""]))
    assert m.classes == () and m.targets.tolist() == [-1, -1, -1]


def test_some_rows_may_have_no_label(tmp_path: Path) -> None:
    manifest(labels=np.array(["b", "", "a"])).write(tmp_path)
    m = Manifest.read(tmp_path)
    assert m.classes == ("a", "b") and m.targets.tolist() == [1, -1, 0]


@settings(max_examples=60, deadline=None)
@given(
    paths=st.lists(ODD.filter(stays_below), min_size=3, max_size=3),
    labels=st.lists(ODD, min_size=3, max_size=3),
    reason=ODD,
)
def test_any_unicode_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], labels: list[str], reason: str
) -> None:
    folder = tmp_path_factory.mktemp("m")
    m = manifest(paths=np.array(paths), labels=np.array(labels))
    m.write(folder, [Failure(paths[0], reason)])
    back = Manifest.read(folder)
    for name in ("ids", "paths", "labels", "groups", "sha256", "widths", "heights", "splits"):
        np.testing.assert_array_equal(getattr(back, name), getattr(m, name))
    assert (back.root, back.source, back.seed, back.from_source) == (m.root, m.source, m.seed, m.from_source)
    assert read_failures(folder) == [Failure(paths[0], reason)]


def test_the_layout_is_pinned(tmp_path: Path) -> None:
    odd = np.array(["a/1.png", 'b/"2", é.png', "a/3.png"])
    manifest(paths=odd, decoders=np.array([1, 2, 1])).write(tmp_path)
    assert (tmp_path / "manifest.csv").read_bytes().decode() == (
        "id,path,label,group,sha256,width,height,decoder,split_0,split_1\n"
        f"0000000000000000-0,a/1.png,a,,{SHA[0]},1,4,1,train,test\n"
        f'"1111111111111111-0","b/""2"", é.png","b","","{SHA[1]}","2","5","2","val","train"\n'
        f"2222222222222222-0,a/3.png,a,g,{SHA[2]},3,6,1,test,train\n"
    )


def test_pixels_are_named_by_the_file_and_by_a_decoder_that_shows_them_otherwise(tmp_path: Path) -> None:
    assert manifest().pixel_digests.tolist() == SHA
    salted = hashlib.sha256(f"{SHA[1]} decoder 2".encode()).hexdigest()
    manifest(decoders=np.array([1, 2, 1])).write(tmp_path)
    assert Manifest.read(tmp_path).pixel_digests.tolist() == [SHA[0], salted, SHA[2]]


def test_a_list_of_an_earlier_version_is_read_but_gives_no_pixels(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    path = tmp_path / "manifest.csv"
    path.write_text(
        "".join(",".join(c for i, c in enumerate(line.split(",")) if i != 7) for line in path.open(encoding="utf-8"))
    )
    record = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(record | {"manifest_sha256": disk.sha256(path)}))
    old = Manifest.read(tmp_path)
    assert old.labels.tolist() == ["a", "b", "a"]
    with pytest.raises(UserError, match="earlier version"):
        _ = old.pixel_digests


def test_images_inside_the_folder_move_with_it(tmp_path: Path) -> None:
    manifest(root=tmp_path / "old" / "images").write(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert Manifest.read(tmp_path / "new").root == tmp_path / "new" / "images"


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": np.array(["1" * 16 + "-0", "0" * 16 + "-0", "2" * 16 + "-0"])},
        {"ids": np.array(["0" * 16 + "-0"] * 3)},
        {"sha256": np.array([SHA[1]] * 3)},
        {"labels": np.array(["a", "b"])},
        {"splits": np.array([["train", "val", "query"]])},
        {"splits": np.array(["train", "val", "test"])},
        {"widths": np.array([1, 0, 1])},
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        manifest(**changes)


def test_an_unknown_split_or_repeat_is_refused() -> None:
    with pytest.raises(UserError, match="train, val, test"):
        manifest().rows("valid")
    with pytest.raises(UserError, match="0 to 1"):
        manifest().rows("val", 2)


def test_a_missing_changed_or_cut_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dataset"):
        Manifest.read(tmp_path)
    manifest().write(tmp_path)
    whole = (tmp_path / "manifest.csv").read_text()
    for text in (whole[:-30], whole.replace("a/1.png", "a/9.png"), ""):
        (tmp_path / "manifest.csv").write_text(text)
        with pytest.raises(UserError, match=r"manifest\.csv is not the one"):
            Manifest.read(tmp_path)
    (tmp_path / "manifest.csv").unlink()
    with pytest.raises(UserError, match="does not exist"):
        Manifest.read(tmp_path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    record = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(record | {"version": 99}))
    with pytest.raises(UserError, match="version 99; allowed: 1"):
        Manifest.read(tmp_path)
    del record["seed"]
    (tmp_path / "dataset.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="seed"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/passwd", "..", "", "a/\0b"])
def test_paths_that_leave_the_folder(path: str) -> None:
    with pytest.raises(UserError, match="leads out of its folder"):
        manifest(paths=np.array(["a/1.png", path, "a/3.png"]))


@pytest.mark.parametrize("name", ["dataset.json", "manifest.csv"])
def test_what_is_not_a_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    manifest().write(tmp_path)
    for put in (os.mkfifo, os.mkdir, lambda p: p.symlink_to("/dev/zero")):
        path = tmp_path / name
        path.rmdir() if path.is_dir() else path.unlink()
        put(path)
        with pytest.raises(UserError, match="is not a file"):
            Manifest.read(tmp_path)
