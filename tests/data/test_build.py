"""The stage from a folder to a manifest: what it refuses, what it leaves out, and that it is whole or absent."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.base import folders, json_files
from pipeline.base.errors import UserError
from pipeline.data import build as module
from pipeline.data.build import build
from pipeline.data.manifest import Manifest, read_failures
from tests import yaml_files
from tests.data.world import PARAMS, folder, params, picture

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder(tmp_path / "photos")


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_labelled_folder(photos: Path, tmp_path: Path) -> None:
    m = build(params(root=photos), tmp_path / "out/dataset")
    assert m.classes == ("cat", "dog") and len(m) == 10 and m.repeats == 2
    assert (m.source, m.from_source, m.root) == ("folder", (), photos)
    for repeat in range(2):
        assert [len(m.rows(s, repeat)) for s in ("train", "val", "test")] == [6, 2, 2]
    for i in range(len(m)):
        assert m.file(i).is_file() and (m.widths[i], m.heights[i]) == (9, 6)
        assert m.classes[m.targets[i]] == str(m.paths[i]).split("/")[0]
    assert files(tmp_path / "out/dataset").keys() == {"manifest.csv", "dataset.json", "failures.csv"}
    assert (tmp_path / "out/dataset/images").is_dir()


def test_the_same_inputs_give_the_same_bytes_whatever_the_memory_holds(photos: Path, tmp_path: Path) -> None:
    build(params(root=photos), tmp_path / "one")
    build(params(root=photos), tmp_path / "two")
    shutil.rmtree(os.environ["CNNCODES_CACHE"])
    build(params(root=photos), tmp_path / "three")
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "three")


def test_names_and_places_of_files_change_no_id_and_no_split(photos: Path, tmp_path: Path) -> None:
    before = build(params(root=photos), tmp_path / "one")
    (photos / "dog/3.png").rename(photos / "dog/a new name")
    (photos / "cat/deep").mkdir()
    (photos / "cat/0.png").rename(photos / "cat/deep/0.png")
    after = build(params(root=photos), tmp_path / "two")
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.splits, before.splits)
    assert set(after.paths) != set(before.paths)


def test_copies_have_an_ordinal_each_and_one_side(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(11):
        shutil.copy(photos / "cat/0.png", photos / f"cat/copy{i}.png")
    shutil.copy(photos / "cat/0.png", photos / "dog/really a cat.png")
    m = build(params(root=photos, repeats=5), tmp_path / "out")
    short = Counter(m.sha256).most_common(1)[0][0][:16]
    same = np.flatnonzero(np.strings.startswith(m.ids, short))
    assert {str(i) for i in m.ids[same]} == {f"{short}-{k}" for k in range(13)}
    by_ordinal = sorted(same, key=lambda i: int(str(m.ids[i]).split("-")[1]))
    paths = [str(m.paths[i]) for i in by_ordinal]
    assert paths == sorted(paths)
    assert all(len(set(m.splits[r, same])) == 1 for r in range(5))
    assert "under different labels" in caplog.text


def test_an_unlabelled_folder_is_split_too(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / f"photos/{i}.png", i)
    m = build(params(root=tmp_path / "photos"), tmp_path / "out")
    assert m.classes == () and [len(m.rows(s)) for s in ("train", "val", "test")] == [6, 2, 2]


def test_given_splits_are_kept_val_is_cut_and_copies_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder(tmp_path / "photos/train", each=10)
    folder(tmp_path / "photos/test", each=12)  # the first ten of each class are in train as well
    m = build(params(root=tmp_path / "photos", splits="folders", repeats=3), tmp_path / "out")
    assert m.from_source == ("train", "test")
    top = np.array([str(p).split("/")[0] for p in m.paths])
    for repeat in m.splits:
        np.testing.assert_array_equal(repeat == "test", top == "test")
        assert Counter(repeat)["val"] == 4
    assert len({tuple(r) for r in m.splits}) > 1
    assert "20 image(s) stand on more than one side" in caplog.text


def test_broken_files_are_listed_and_the_rest_goes_on(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "cat/empty.png").touch()
    (photos / "dog/cut.png").write_bytes((photos / "dog/0.png").read_bytes()[:60])
    (photos / "bird").mkdir()
    (photos / "bird/none.txt").write_text("only text")
    picture(photos / "cat/large.png", 0, height=50, width=50)
    m = build(params(root=photos, max_pixels=2000), tmp_path / "out")
    failures = read_failures(tmp_path / "out")
    assert [f.path for f in failures] == ["bird/none.txt", "cat/empty.png", "cat/large.png", "dog/cut.png"]
    assert "not an image" in failures[0].reason and "2500" not in failures[1].reason
    assert "50 x 50" in failures[2].reason and "truncated" in failures[3].reason
    assert len(m) == 10 and m.classes == ("cat", "dog")
    assert [f.kind for f in failures] == ["not_an_image", "broken", "broken", "broken"]
    assert "3 of 13 files" in caplog.text and "1 other file (1 x .txt)" in caplog.text and "bird" not in caplog.text


def test_other_files_beside_the_pictures_stop_nothing(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for image in list(photos.rglob("*.png")):
        image.with_suffix(".png.json").write_text("{}")
        image.with_suffix(".nef").write_bytes(b"MM\0*\0\0\0\x08\0\0")
    (photos / "README.md").write_text("About these")
    m = build(params(root=photos, max_failed_share=0.0), tmp_path / "out")
    assert len(m) == 10 and m.classes == ("cat", "dog")
    kinds = Counter(f.kind for f in read_failures(tmp_path / "out"))
    assert kinds == {"not_an_image": 11, "unread_format": 10}
    assert "10 of 20 photographs are of formats that aren't read: 10 x RAW (NEF)" in caplog.text
    with pytest.raises(UserError, match=r"10 of 20 files .*RAW \(NEF\).*on_error"):
        build(params(root=photos, on_error="fail"), tmp_path / "out")
    for image in photos.rglob("*.png"):
        image.unlink()
    with pytest.raises(UserError, match=r"holds no readable images: 10 of 10 .*RAW \(NEF\).*darktable"):
        build(params(root=photos), tmp_path / "out")


def test_other_files_may_lie_beside_the_split_folders(tmp_path: Path) -> None:
    folder(tmp_path / "photos/train", each=10)
    folder(tmp_path / "photos/test", each=5)
    (tmp_path / "photos/README.txt").write_text("About these")
    (tmp_path / "photos/docs").mkdir()
    (tmp_path / "photos/docs/labels.csv").write_text("1,2")
    assert build(params(root=tmp_path / "photos", splits="folders"), tmp_path / "out").from_source == ("train", "test")


def test_what_is_left_out_is_said_in_one_line_and_listed(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for image in list(photos.rglob("*.png")):
        thumbnail = image.parent / "@eaDir" / image.name / "SYNOPHOTO_THUMB_M.jpg"
        thumbnail.parent.mkdir(parents=True)
        shutil.copy(image, thumbnail)
    (photos / "dog/.DS_Store").touch()
    m = build(params(root=photos, leave_out=["4.png"]), tmp_path / "out/dataset")
    assert len(m) == 8 and m.classes == ("cat", "dog")
    assert "left out: 5 files and folders (2 x made by a Synology: cat/@eaDir, dog/@eaDir;" in caplog.text
    assert {(f.path, f.kind) for f in read_failures(tmp_path / "out/dataset")} == {
        (path, "left_out") for path in ("cat/@eaDir", "dog/@eaDir", "dog/.DS_Store", "cat/4.png", "dog/4.png")
    }


def test_a_dataset_made_inside_the_images_changes_nothing_the_second_time(photos: Path) -> None:
    first = build(params(root=photos), photos / "codes/dataset")
    assert read_failures(photos / "codes/dataset") == []
    second = build(params(root=photos), photos / "codes/dataset")
    assert second.paths.tolist() == first.paths.tolist() and second.classes == ("cat", "dog")
    assert [f.path for f in read_failures(photos / "codes/dataset")] == ["codes"]


def test_failures_are_written_before_a_run_stops(photos: Path, tmp_path: Path) -> None:
    _break_one(photos)
    with pytest.raises(UserError, match=r"--max-failed-share.*see .*out/failures\.csv"):
        build(params(root=photos, max_failed_share=0.05), tmp_path / "out")
    assert [(f.path, f.kind) for f in read_failures(tmp_path / "out")] == [("cat/broken.png", "broken")]
    build(params(root=photos, max_failed_share=1.0), tmp_path / "out")  # in the same place
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match=r"failures\.csv"):
        build(params(root=photos, on_error="fail"), tmp_path / "out")
    assert files(tmp_path / "out") == before
    assert [f.path for f in read_failures(module.kept_failures(photos))] == ["cat/broken.png"]


def test_a_fleeting_dataset_leaves_its_failures_in_the_cache(photos: Path, tmp_path: Path) -> None:
    _break_one(photos)
    build(params(root=photos), tmp_path / "out", fleeting=True)
    shutil.rmtree(tmp_path / "out")
    assert [f.path for f in read_failures(module.kept_failures(photos))] == ["cat/broken.png"]


def _break_one(photos: Path) -> None:
    (photos / "cat/broken.png").write_bytes(b"x")


def _break_all(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.write_bytes(b"x")


def _one_class(photos: Path) -> None:
    shutil.rmtree(photos / "dog")


def _tiny_class(photos: Path) -> None:
    picture(photos / "bird/1.png", 7)
    picture(photos / "bird/2.png", 8)


def _copies_only(photos: Path) -> None:
    for i in range(5):
        picture(photos / f"bird/{i}.png", 7)


def _stray(photos: Path) -> None:
    picture(photos / "stray.png", 9)


def _strays_alone(photos: Path) -> None:
    for i in range(7):
        picture(photos / f"{i}.png", 100 + i)
    shutil.rmtree(photos / "dog")


@pytest.mark.parametrize(
    ("spoil", "changes", "words"),
    [
        (_break_one, {"on_error": "fail"}, r"1 of 11 files .*cat/broken\.png.*on_error"),
        (_break_one, {"max_failed_share": 0.05}, r"1 of 11 files .*max_failed_share"),
        (_break_all, {}, "no readable images"),
        (shutil.rmtree, {}, "does not exist"),
        (_one_class, {}, "of one class, 'cat'"),
        (_tiny_class, {}, r"train, val, test: bird \(2 images, 2 kept apart\)"),
        (_copies_only, {}, r"bird \(5 images, 1 kept apart\)"),
        (_strays_alone, {}, "all 5 of 12 images that have a label are of one class, 'cat'"),
        (lambda _: None, {"val_share": 0.6, "test_share": 0.6}, "less than 1"),
        (lambda _: None, {"splits": "folders"}, "split 'cat'|split 'dog'"),
    ],
)
def test_what_is_refused_leaves_an_earlier_dataset_as_it_was(
    photos: Path, tmp_path: Path, spoil: Any, changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out/dataset"
    build(params(root=photos), out)
    before = files(tmp_path / "out")
    spoil(photos)
    with pytest.raises(UserError, match=words):
        build(params(root=photos, **changes), out)
    assert files(tmp_path / "out") == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["dataset"]


def test_a_small_class_is_enough_where_its_splits_are_not_asked_for(photos: Path, tmp_path: Path) -> None:
    _tiny_class(photos)
    m = build(params(root=photos, val_share=0.0), tmp_path / "out")
    assert m.classes == ("bird", "cat", "dog") and len(m.rows("val")) == 0


@pytest.mark.parametrize("spoil", [_one_class, _tiny_class, _stray])
def test_codes_alone_need_no_labels(photos: Path, tmp_path: Path, spoil: Any) -> None:
    spoil(photos)
    m = build(params(root=photos), tmp_path / "out", labels_needed=False)
    assert len(m) == sum(p.is_file() for p in photos.rglob("*"))
    assert m.classes


@pytest.mark.parametrize("labels_needed", [True, False])
def test_a_stray_picture_costs_no_other_its_label(
    photos: Path, tmp_path: Path, labels_needed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = build(params(root=photos), tmp_path / "before")
    _stray(photos)
    shutil.copy(photos / "cat/0.png", photos / "copy.png")
    m = build(params(root=photos), tmp_path / "out", labels_needed=labels_needed)
    assert m.classes == ("cat", "dog")
    assert {str(p) for p in m.paths[m.targets < 0]} == {"stray.png", "copy.png"}
    assert "2 of 12 images have no label, the first copy.png" in caplog.text
    assert "under different labels" not in caplog.text
    again = Manifest.read(tmp_path / "out")
    np.testing.assert_array_equal(again.targets, m.targets)
    assert json_files.read(tmp_path / "out/dataset.json")["unlabelled"] == 2
    # The copy goes where its labelled original goes, and all others stay.
    old = {str(p): before.splits[:, i].tolist() for i, p in enumerate(before.paths)}
    new = {str(p): m.splits[:, i].tolist() for i, p in enumerate(m.paths)}
    assert new["copy.png"] == new["cat/0.png"]
    assert {p: s for p, s in new.items() if p.startswith("dog/")} == {
        p: s for p, s in old.items() if p.startswith("dog/")
    }


def test_folders_that_look_the_same_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "photos"
    for i, name in enumerate(["caf\u00e9", "cafe\u0301", "dog", "dog ", "Dog"] * 3):
        picture(root / name / f"{i}.png", i)
    m = build(params(root=root), tmp_path / "out")
    assert m.classes == ("Dog", "caf\u00e9", "dog")
    assert all(m.file(row).is_file() for row in range(len(m)))
    assert "'dog' and 'dog ': one class" in caplog.text
    assert "'Dog' and 'dog': classes that differ in capitals alone" in caplog.text


def test_groups_that_look_the_same_are_one(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    rows = ["path,label,group"]
    for i in range(20):
        picture(root / f"{i}.png", i)
        rows.append(f"{i}.png,{'ab'[i % 2]},person{' ' * (i % 3)} {i // 4}")
    (root / "labels.csv").write_text("\n".join(rows))
    m = build(params(root=root), tmp_path / "out")
    assert len(set(m.groups)) == 5


def test_unpacked_images_lie_in_the_folder_and_are_replaced_with_it(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for n in (12, 9):
        with h5py.File(tmp_path / "set.h5", "w") as f:
            f["images"] = np.random.default_rng(n).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
            f["labels"] = np.arange(n) % 2
        m = build(params(source="hdf5", root=tmp_path / "set.h5"), tmp_path / "out")
        assert m.root == tmp_path / "out/images"
        assert len(m) == n == sum(p.is_file() for p in m.root.rglob("*"))
    assert not list(tmp_path.glob(".out*"))


def test_a_folder_of_someone_elses_is_never_replaced(photos: Path, tmp_path: Path) -> None:
    before = files(photos)
    with pytest.raises(UserError, match="holds no dataset"):
        build(params(root=photos), photos)
    assert files(photos) == before


def test_a_run_that_is_stopped_leaves_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "verify", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(params(root=photos), tmp_path / "out/dataset")
    assert not (tmp_path / "out").exists()


def test_a_refused_rename_leaves_the_folder_that_was_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(params(root=photos), out)
    before = files(out)

    def refused(new: Path, old: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folders, "_exchanged", refused)
    with pytest.raises(UserError):
        build(params(root=photos, seed=5), out)
    assert files(out) == before and [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")] == []


def test_a_folder_that_a_kill_left_aside_has_its_name_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(params(root=photos), out)
    before = files(out)
    out.rename(tmp_path / ".out.old")
    with pytest.raises(UserError):
        build(params(root=tmp_path / "none"), out)
    assert files(out) == before


def test_a_full_disk_is_the_users_error(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="no space left"):
        build(params(root=photos), tmp_path / "out/dataset")
    assert not (tmp_path / "out").exists()


def test_top_folders_that_look_like_splits_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder(tmp_path / "photos", classes=("train", "test"))
    build(params(root=tmp_path / "photos"), tmp_path / "out")
    assert "set dataset.splits: folders" in caplog.text


# ---- the stage


def run_stage(here: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    shipped = yaml_files.params(REPOSITORY / "params.yaml")
    (here / "params.yaml").write_text(yaml_files.dump_params(shipped | {"dataset": PARAMS | changes}))
    return subprocess.run(
        [sys.executable, "-m", "stages.dataset"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_stage_writes_the_dataset_and_counts(photos: Path, tmp_path: Path) -> None:
    done = run_stage(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 images (6 train, 2 val, 2 test) of 2 classes; 0 failed" in done.stderr
    assert len(Manifest.read(tmp_path / "out/dataset")) == 10


@pytest.mark.parametrize("changes", [{"root": "nowhere"}, {"source": "web"}, {"val_share": "much"}])
def test_the_users_error_is_one_line_and_exit_code_2(tmp_path: Path, changes: dict[str, Any]) -> None:
    done = run_stage(tmp_path, **changes)
    assert done.returncode == 2
    assert done.stderr.startswith("stages.dataset: error: ") and done.stderr.count("\n") == 1 and done.stdout == ""
    assert str(next(iter(changes.values()))) in done.stderr
    assert not (tmp_path / "out/dataset").exists()


@pytest.fixture(autouse=True)
def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_one_image_that_needs_too_much_memory_does_not_stop_a_small_set(tmp_path: Path) -> None:
    Image.new("L", (1600, 1600)).save(folder(tmp_path / "photos") / "cat/large.png")
    asked = params(root=tmp_path / "photos", max_failed_share=0.0, max_pixels=10_000_000)
    manifest = build(asked, tmp_path / "out", memory_mb=16)
    (failure,) = read_failures(tmp_path / "out")
    assert (
        failure.path == "cat/large.png"
        and failure.kind == "too_large"
        and "codes.compute.memory_mb (16)" in failure.reason
    )
    assert failure.path not in manifest.paths
    assert len(build(asked, tmp_path / "out", memory_mb=64)) == len(manifest) + 1
