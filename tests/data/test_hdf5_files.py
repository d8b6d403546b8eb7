"""Files of train and of test: their splits, order, classes, and what of them is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.data.build import build
from pipeline.data.decode import decode
from pipeline.data.manifest import Manifest
from pipeline.data.sources import base
from tests import peak
from tests.data.world import params

h5py = pytest.importorskip("h5py")

SHAPE = (3, 4, 5)


def pixels(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def neon(path: Path, values: np.ndarray, targets: Any, *, nclass: int | None = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as f:
        f.create_dataset("input", data=values.reshape(len(values), -1)).attrs["lshape"] = values.shape[1:]
        output = f.create_dataset("output", data=np.array(targets)[:, None])
        if nclass is not None:
            output.attrs["nclass"] = nclass
    return path


def plain(path: Path, values: np.ndarray, *, classes: list[str] | None = None, **columns: Any) -> Path:
    with h5py.File(path, "w") as f:
        f["images"] = values
        for name, given in columns.items():
            f[name] = given
        if classes is not None:
            f["labels"].attrs["classes"] = classes
    return path


def built(folder: Path, train: list[Path], test: list[Path], **changes: Any) -> Manifest:
    files = {"train": list(map(str, train)), "test": list(map(str, test))}
    return build(params(source="hdf5", root=folder, **files, **changes), folder / "out")


def stored_order(manifest: Manifest, split: str) -> list[np.ndarray]:
    rows = manifest.as_stored(manifest.rows(split))
    return [decode(manifest.file(int(row)), max_pixels=10**6) for row in rows]


def test_stopped_while_it_unpacks_it_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, save = [neon(tmp_path / "a.h5", pixels(30, 0), np.arange(30) % 2)], base._save

    def stopped(image: Any, path: Path) -> None:
        if path.name == "00000020.png":
            raise KeyboardInterrupt
        save(image, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stop:
        patch.setattr(base, "_save", stopped)
        built(tmp_path, train, [])
    assert stop.value.__notes__ == [
        "of images that are unpacked or drawn none is kept: the same command begins with them again"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_what_a_kill_left_half_unpacked_goes(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial/images/0000"
    left.mkdir(parents=True)
    for number in (3, 77):
        (left / f"{number:08d}.png").write_bytes(b"half a picture")
    values = pixels(30, 0)
    manifest = built(tmp_path, [neon(tmp_path / "a.h5", values, np.arange(30) % 2)], [])
    assert len(manifest) == 30 == len(list((tmp_path / "out/images").rglob("*.png")))
    assert not left.exists()
    shown = [decode(manifest.root / f"0000/{number:08d}.png", max_pixels=10**6) for number in range(30)]
    np.testing.assert_array_equal(np.moveaxis(shown, 3, 1), values)


def test_test_files_are_the_test_split_and_val_is_cut_from_train(tmp_path: Path) -> None:
    first, second, last = pixels(30, 0), pixels(10, 1), pixels(7, 2)
    train = [neon(tmp_path / "a.h5", first, np.arange(30) % 2), neon(tmp_path / "b.h5", second, np.arange(10) % 2)]
    test = [neon(tmp_path / "test.h5", last, [0, 1, 1, 0, 1, 0, 1])]
    manifest = built(tmp_path, train, test, repeats=3, val_share=0.2, test_share=0.5)
    assert manifest.from_source == ("train", "test")
    for repeat in range(3):
        rows = manifest.rows("test", repeat)
        assert {manifest.paths[row] for row in rows} == {f"test/0000/{i:08d}.png" for i in range(7)}
        val = manifest.rows("val", repeat)
        assert np.bincount(manifest.targets[val]).tolist() == [4, 4]
        assert all(manifest.paths[row].startswith("train/") for row in val)
    assert len({tuple(manifest.rows("val", r)) for r in range(3)}) == 3
    np.testing.assert_array_equal(stored_order(manifest, "test"), last.transpose(0, 2, 3, 1))
    everything = manifest.as_stored(np.flatnonzero(manifest.splits[0] != "test"))
    got = [decode(manifest.file(int(row)), max_pixels=10**6) for row in everything]
    np.testing.assert_array_equal(got, np.concatenate([first, second]).transpose(0, 2, 3, 1))
    order = manifest.as_stored(manifest.rows("test"))
    assert manifest.class_numbers[manifest.targets[order]].tolist() == [0, 1, 1, 0, 1, 0, 1]


def test_train_alone_is_cut_like_a_folder(tmp_path: Path) -> None:
    manifest = built(tmp_path, [neon(tmp_path / "a.h5", pixels(20, 0), np.arange(20) % 2)], [])
    assert manifest.from_source == ()
    assert len(manifest.rows("test")) == 4 and len(manifest.rows("val")) == 4


def test_classes_txt_names_the_numbers_and_keeps_their_order(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("\ufeffzebra\r\nnobody\r\nant\r\n".encode())
    train = neon(tmp_path / "train.h5", pixels(12, 0), [0, 2] * 6, nclass=3)
    manifest = built(tmp_path, [train], [neon(tmp_path / "test.h5", pixels(2, 1), [2, 0], nclass=3)])
    assert manifest.classes == ("ant", "zebra")
    assert manifest.numbered == ("zebra", "nobody", "ant")
    assert manifest.class_numbers.tolist() == [2, 0]
    assert Manifest.read(tmp_path / "out").numbered == manifest.numbered
    order = manifest.as_stored(manifest.rows("test"))
    assert manifest.labels[order].tolist() == ["ant", "zebra"]


def test_numbers_mean_the_same_in_files_that_reach_differently_far(tmp_path: Path) -> None:
    train = neon(tmp_path / "train.h5", pixels(24, 0), np.arange(24) % 12, nclass=None)
    test = neon(tmp_path / "test.h5", pixels(2, 1), [1, 2], nclass=None)
    manifest = built(tmp_path, [train], [test], val_share=0.0)
    assert set(manifest.labels[manifest.rows("test")]) == {"01", "02"}
    assert len(manifest.classes) == 12


def test_the_plain_layout_is_taken_with_its_names_groups_and_val(tmp_path: Path) -> None:
    split = [b"val", b"train", b"train", b"val", b"train", b"train"]
    groups = [b"x", b"y", b"y", b"x", b"z", b"z"]
    train = plain(tmp_path / "a.h5", pixels(6, 0), labels=[b"cat", b"dog"] * 3, split=split, group=groups)
    test = plain(tmp_path / "b.h5", pixels(2, 1), labels=[b"cat", b"dog"])
    manifest = built(tmp_path, [train], [test])
    assert [len(manifest.rows(s)) for s in ("train", "val", "test")] == [4, 2, 2]
    assert manifest.numbered == ()
    names = plain(tmp_path / "c.h5", pixels(4, 2), labels=[1, 0, 1, 0], classes=["cat", "dog"])
    also = neon(tmp_path / "d.h5", pixels(4, 3), [0, 1, 0, 1])
    both = built(tmp_path, [names, also], [], val_share=0.0, test_share=0.0)
    assert both.classes == ("cat", "dog")


def test_groups_of_train_stay_together_when_val_is_cut(tmp_path: Path) -> None:
    groups = [f"person {i // 4}".encode() for i in range(40)]
    train = plain(tmp_path / "a.h5", pixels(40, 0), labels=np.arange(40) // 4 % 2, group=groups)
    test = plain(tmp_path / "b.h5", pixels(2, 1), labels=[0, 1])
    manifest = built(tmp_path, [train], [test])
    val = manifest.rows("val")
    rest = manifest.rows("train")
    assert len(val) and not set(manifest.groups[val]) & set(manifest.groups[rest])


def test_a_copy_in_train_and_test_is_said_and_stays_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = pixels(12, 0)
    train = neon(tmp_path / "train.h5", shared, [0, 1] * 6)
    test = neon(tmp_path / "test.h5", shared[:3], [0, 1, 0])
    with caplog.at_level(logging.WARNING):
        manifest = built(tmp_path, [train], [test])
    assert "3 image(s) stand on more than one side of the source's own splits" in caplog.text
    assert len(manifest) == 15 and len(set(manifest.ids)) == 15
    assert len(manifest.rows("test")) == 3


def _refused(tmp_path: Path) -> dict[str, tuple[list[Path], list[Path], str]]:
    (tmp_path / "named").mkdir()
    (tmp_path / "named/classes.txt").write_text("cat\ndog\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/classes.txt").write_text("dog\ncat\n")
    (tmp_path / "few").mkdir()
    (tmp_path / "few/classes.txt").write_text("cat\n")
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice/classes.txt").write_text("cat\n\ncat\n")
    ab = [0, 1, 0, 1]
    a = neon(tmp_path / "a.h5", pixels(4, 0), ab)
    named = neon(tmp_path / "named/a.h5", pixels(4, 1), ab)
    texts = plain(tmp_path / "texts.h5", pixels(2, 2), labels=[b"cat", b"dog"])
    return {
        "missing": ([a], [tmp_path / "gone.h5"], r"gone\.h5 is not a file"),
        "twice": ([a], [tmp_path / "named/../a.h5"], "is named twice"),
        "names differ": ([named], [neon(tmp_path / "other/a.h5", pixels(4, 3), ab)], "name their classes differently"),
        "too few names": ([neon(tmp_path / "few/a.h5", pixels(4, 4), ab)], [], "go up to 1, but names 1 classes"),
        "no names": ([neon(tmp_path / "twice/a.h5", pixels(4, 4), ab)], [], r"classes\.txt has a name twice"),
        "counts differ": ([a], [neon(tmp_path / "c.h5", pixels(4, 5), ab, nclass=5)], r"numbers of classes: .*a\.h5 2"),
        "numbers and names": ([a], [texts], r"a\.h5 has numbers of classes, .*texts\.h5 has names"),
        "test in train": (
            [plain(tmp_path / "t.h5", pixels(2, 6), labels=ab[:2], split=[b"train", b"test"])],
            [a],
            r"t\.h5 is a file of train and has rows of test; allowed: train, val",
        ),
        "train in test": (
            [a],
            [plain(tmp_path / "u.h5", pixels(2, 6), labels=ab[:2], split=[b"train", b"test"])],
            r"u\.h5 is a file of test and has rows of train; allowed: test",
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "twice",
        "names differ",
        "too few names",
        "no names",
        "counts differ",
        "numbers and names",
        "test in train",
        "train in test",
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, case: str) -> None:
    train, test, words = _refused(tmp_path)[case]
    with pytest.raises(UserError, match=words):
        built(tmp_path, train, test)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "folder", "train": ["a/train.h5"], "root": "a"}, "source is folder"),
        ({"source": "hdf5", "test": ["a/test.h5"], "root": "a"}, "test names files and train none"),
        ({"source": "hdf5", "train": ["b/train.h5"], "root": "a"}, r"b/train\.h5 .* does not lie in root, a"),
        ({"source": "hdf5", "train": ["a/train.h5"], "test": ["a/../t.h5"], "root": "a"}, "does not lie in root, a"),
    ],
)
def test_params_that_do_not_fit_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        params(**changes)


@pytest.mark.parametrize("chunks", [None, True])
def test_unpacking_holds_a_few_images(tmp_path: Path, chunks: bool | None) -> None:
    """64 MB of images take less than half of it."""
    side, n = 256, 340
    with h5py.File(tmp_path / "train.h5", "w") as f:
        data = f.create_dataset("input", (n, 3 * side * side), dtype=np.uint8, chunks=chunks)
        data.attrs["lshape"] = (3, side, side)
        for i in range(n):
            data[i] = i % 256
        f["output"] = np.eye(2)[np.arange(n) % 2]
    few = neon(tmp_path / "few/train.h5", pixels(10, 0), [0, 1] * 5)
    taken = peak.of(lambda: built(tmp_path, [tmp_path / "train.h5"], []), warm=lambda: built(few.parent, [few], []))
    assert taken < 32 << 20, f"{taken:,}"
