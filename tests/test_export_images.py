"""train.h5, test.h5 and classes.txt: what is in them, and that reading them gives what was written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline import export_images as module
from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.cli.app import app
from pipeline.config import DatasetParams
from pipeline.data.build import build
from pipeline.data.decode import decode
from pipeline.export_images import export_images
from pipeline.workspace import images_section, preset
from tests import peak
from tests.pictures import draw_classes

h5py = pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_classes(tmp_path / "photos", per_class=8, side=24)


def arrays(folder: Path, name: str) -> tuple[np.ndarray, list[int], list[str]]:
    """Pixels (n, H, W, 3), class numbers and ids of a file, read as neon's iterator does."""
    with h5py.File(folder / name) as f:
        channels, height, width = f["input"].attrs["lshape"]
        assert f["input"].dtype == np.uint8 and f["output"].shape == (len(f["input"]), 1)
        values = f["input"][()].reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        return values, f["output"][:, 0].tolist(), [i.decode() for i in f["ids"]]


def read_back(folder: Path, out: Path) -> module.Manifest:
    section = images_section(None, [folder / "train.h5"], [folder / "test.h5"])
    return build(preset(DatasetParams, **section), out)


def test_read_back_pixels_labels_order_and_split_are_what_was_written(photos: Path, tmp_path: Path) -> None:
    done = export_images(photos, tmp_path / "set", size=24)
    assert done.images == {"train.h5": 18, "test.h5": 6} and done.classes == ("blue", "green", "red")
    assert (tmp_path / "set/classes.txt").read_text() == "blue\ngreen\nred\n"
    found = build(preset(DatasetParams, root=str(photos)), tmp_path / "dataset")
    manifest = read_back(tmp_path / "set", tmp_path / "again")
    for name, splits in (("train.h5", ("train", "val")), ("test.h5", ("test",))):
        values, targets, ids = arrays(tmp_path / "set", name)
        source = np.flatnonzero(np.isin(found.splits[0], splits))
        assert ids == found.ids[source].tolist()
        assert targets == found.targets[source].tolist()
        shown = [decode(found.file(int(row)), max_pixels=10**6) for row in source]
        np.testing.assert_array_equal(values, shown)
        rows = manifest.as_stored(np.flatnonzero(np.isin(manifest.splits[0], splits)))
        np.testing.assert_array_equal([decode(manifest.file(int(r)), max_pixels=10**6) for r in rows], values)
        assert manifest.labels[rows].tolist() == found.labels[source].tolist()


def test_what_came_from_files_keeps_their_order_and_numbers(photos: Path, tmp_path: Path) -> None:
    export_images(photos, tmp_path / "set", size=24)
    # Numbers that are not those of the names in order, and one of a class without images.
    (tmp_path / "set/classes.txt").write_text("red\ngreen\nblue\nnone\n")
    read_back(tmp_path / "set", tmp_path / "space/dataset")
    export_images(tmp_path / "space", tmp_path / "again", size=24)
    assert (tmp_path / "again/classes.txt").read_text() == "red\ngreen\nblue\nnone\n"
    for name in ("train.h5", "test.h5"):
        before, after = arrays(tmp_path / "set", name), arrays(tmp_path / "again", name)
        np.testing.assert_array_equal(before[0], after[0])
        assert before[1] == after[1]
    with h5py.File(tmp_path / "again/test.h5") as f:
        assert f["output"].attrs["nclass"] == 4


def test_the_mean_is_that_of_each_channel_of_train(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 5 * 16 * 16 * 3)
    export_images(photos, tmp_path / "set", size=16, mean=True)
    values, _, _ = arrays(tmp_path / "set", "train.h5")
    for name in ("train.h5", "test.h5"):
        with h5py.File(tmp_path / "set" / name) as f:
            np.testing.assert_allclose(f["input"].attrs["mean"], values.mean(axis=(0, 1, 2)), rtol=1e-6)
    export_images(photos, tmp_path / "plain", size=16)
    with h5py.File(tmp_path / "plain/train.h5") as f:
        assert "mean" not in f["input"].attrs


def test_images_without_a_label_are_left_out(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (24, 24)).save(photos / "bare.png")
    done = export_images(photos, tmp_path / "set", size=24)
    assert sum(done.images.values()) == 24
    assert "1 of 25 images have no label and are left out" in caplog.text


def test_a_set_without_labels_has_no_output(photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in photos.rglob("*.png"):
        shutil.copy(path, flat / f"{path.parent.name}{path.name}")
    done = export_images(flat, tmp_path / "set", size=24)
    assert [p.name for p in done.files] == ["test.h5", "train.h5"]
    with h5py.File(tmp_path / "set/train.h5") as f:
        assert sorted(f) == ["ids", "input"]


def test_it_is_whole_or_not_there(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.iterdir())

    def full(path: Path, text: str) -> None:
        raise UserError("no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_text", full)
        with pytest.raises(UserError, match="no space"):
            export_images(photos, tmp_path / "set", size=24)
    assert sorted(p for p in tmp_path.iterdir() if p.name != "cache") == before
    assert not list((tmp_path / "cache/work").iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.h5").write_text("")
    with pytest.raises(UserError, match="mine is there already; allowed: a new folder"):
        export_images(photos, tmp_path / "mine", size=24)


def test_an_empty_split_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image for test\.h5; .*see dataset\.test_share"):
        export_images(photos, tmp_path / "set", size=24, dataset={"test_share": 0.0})


def test_a_few_images_are_held(tmp_path: Path) -> None:
    """53 MB of pixels take less than 24 MB."""

    def export(photos: Path, out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.cpu_count", lambda: 2)
            patch.setattr("pipeline.strategies.images._BLOCK_BYTES", 4 << 20)
            export_images(photos, out, size=256, mean=True)

    draw_classes(tmp_path / "photos", per_class=90, side=8)
    few = draw_classes(tmp_path / "few", per_class=8, side=8)
    taken = peak.of(
        lambda: export(tmp_path / "photos", tmp_path / "set"),
        warm=lambda: export(few, tmp_path / "warm"),
    )
    assert (tmp_path / "set/train.h5").stat().st_size + (tmp_path / "set/test.h5").stat().st_size > 53_000_000
    assert taken < 24 << 20, f"{taken:,}"


def test_the_command_says_where_val_went(photos: Path, tmp_path: Path) -> None:
    args = ["export-images", str(photos), "--to", "hdf5", "--out", str(tmp_path / "set"), "--size", "16", "--mean"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert "train.h5: 18 images of train and val" in done.output and "test.h5: 6 images of test" in done.output
