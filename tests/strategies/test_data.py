"""Params, sets, the cache of images, the saved network, and what is read off curves."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline import config, transfer
from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.codes import extract
from pipeline.data import originals
from pipeline.data.cost import Header
from pipeline.data.manifest import Manifest
from pipeline.nets.vgg.network import Network
from pipeline.nets.weights import held_layers, read_canonical
from pipeline.strategies import gains, images, saved
from pipeline.strategies.images import CachedView, cached
from pipeline.strategies.run import run_strategy
from pipeline.strategies.sets import sets_of
from pipeline.workspace import preset
from tests.strategies import world

VIEW = CachedView("crop", 36, (255, 255, 255))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "epoch: unknown key"),
        ({"epochs": "3"}, "epochs"),
        ({"size": 40}, "size 40 must not be above finetune.image.scale 36"),
        ({"run": ["frozn"]}, "names frozn; allowed: direct, frozen"),
        ({"optimiser": "sgdd"}, "optimiser"),
        ({"strategies": {"frozen": {"kind": "frozen", "below": "conv4_1"}}}, "below is of no use to kind frozen"),
        ({"strategies": {"frozen": {"kind": "gradual"}}}, "gradual needs `every`"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing is of cross_entropy"),
    ],
)
def test_bad_params_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        world.params(**changes)


# -- sets


def test_sets_are_the_splits_and_a_subset_keeps_every_class(manifest: Manifest, cache: Path) -> None:
    found = cached(manifest, VIEW, cache)
    whole = sets_of(manifest, found, 1, max_train=0, seed=0)
    for split in ("train", "val", "test"):
        assert getattr(whole, split).tolist() == manifest.rows(split, 1).tolist()
    few = sets_of(manifest, found, 1, max_train=7, seed=0)
    assert set(few.train) < set(whole.train)
    assert sorted(np.bincount(few.y_train)) == [2, 2, 3]
    assert few.test.tolist() == whole.test.tolist()
    assert few.train.tolist() != sets_of(manifest, found, 1, max_train=7, seed=1).train.tolist()
    with pytest.raises(UserError, match="below the number of classes"):
        sets_of(manifest, found, 1, max_train=2, seed=0)


def test_a_class_that_vanishes_from_train_is_named(manifest: Manifest, cache: Path) -> None:
    splits = manifest.splits.copy()
    splits[0, manifest.labels == "green"] = "test"
    broken = dataclasses.replace(manifest, splits=splits)
    with pytest.raises(UserError, match="no training image of 1 of 3 classes: green"):
        sets_of(broken, cached(broken, VIEW, cache), 0, max_train=0, seed=0)


def test_without_labels_the_files_say_so(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    bare = dataclasses.replace(manifest, labels=np.full(len(manifest), "", dtype="U1"))
    assert run_strategy("cnn", bare, world.weights(), world.params(), tmp_path, cache=cache) == {
        "strategy": "cnn",
        "skipped": "no labels",
    }
    assert {p.name for p in tmp_path.iterdir()} == {
        "live-curves",
        "kept-checkpoints",
        "metrics.json",
        "predictions.csv",
        "curves.csv",
        "groups.json",
        "model.safetensors",
        "head.safetensors",
    }


# -- the cache of images


def test_images_are_decoded_once(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached(manifest, VIEW, tmp_path)
    assert first.pixels.shape == (len(manifest), 36, 36, 3)
    for row in (0, 17, 41):
        with Image.open(manifest.file(row)) as image:
            # 40 x 44 -> 36 x 40 -> the central 36 x 36.
            expected = np.asarray(image.resize((36, 40), Image.Resampling.BILINEAR))[2:38]
        assert np.abs(first.pixels[first.at[row]].astype(int) - expected).max() <= 1
    monkeypatch.setattr(originals, "decode", None)
    moved = dataclasses.replace(manifest, paths=np.array([f"moved/{p}" for p in manifest.paths]))
    assert cached(moved, VIEW, tmp_path).path == first.path
    with pytest.raises(TypeError):
        cached(manifest, CachedView("squash", 36, (255, 255, 255)), tmp_path)
    assert sorted(p.suffix for p in (tmp_path / images.FOLDER).iterdir() if p.is_file()) == [".json", ".npy"]


def decoded_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded from now on."""
    names: list[str] = []
    decode = originals.decode

    def counted(data: bytes, **how: Any) -> Any:
        names.append(how["name"])
        return decode(data, **how)

    monkeypatch.setattr(originals, "decode", counted)
    return names


def without(manifest: Manifest, row: int) -> Manifest:
    kept = np.arange(len(manifest)) != row
    columns = ("ids", "paths", "labels", "groups", "sha256", "widths", "heights")
    arrays = {name: getattr(manifest, name)[kept] for name in columns}
    return dataclasses.replace(manifest, **arrays, splits=manifest.splits[:, kept])


def test_one_image_more_costs_one_image_and_one_less_costs_none(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = decoded_by(monkeypatch)
    few = without(manifest, 20)
    cached(few, VIEW, tmp_path / "grown")
    assert sorted(names) == sorted(few.file(i).name for i in range(len(few)))
    names.clear()
    grown = cached(manifest, VIEW, tmp_path / "grown")
    assert names == [manifest.file(20).name]
    names.clear()
    cached(without(manifest, 3), VIEW, tmp_path / "grown")
    assert names == []
    whole = cached(manifest, VIEW, tmp_path / "whole")
    assert (grown.key, grown.at.tolist()) == (whole.key, whole.at.tolist())
    assert grown.path.read_bytes() == whole.path.read_bytes()


def test_a_damaged_shard_of_pixels_is_made_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(images, "_BLOCK_BYTES", 8 * 36 * 36 * 3)
    found = cached(manifest, VIEW, tmp_path)
    before = found.path.read_bytes()
    shard = next(found.path.parent.glob("*/shard-*.h5"))
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    found.path.unlink()
    names = decoded_by(monkeypatch)
    assert cached(manifest, VIEW, tmp_path).path.read_bytes() == before
    assert len(names) <= 8 and "is damaged" in caplog.text


def test_images_that_another_version_of_the_decoder_shows_otherwise_are_decoded_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(manifest, VIEW, tmp_path)
    monkeypatch.setattr(originals, "decode", None)
    versions = np.ones(len(manifest), dtype=np.int64)
    cached(dataclasses.replace(manifest, decoders=versions), VIEW, tmp_path)
    versions[3] = 2
    with pytest.raises(TypeError):
        cached(dataclasses.replace(manifest, decoders=versions), VIEW, tmp_path)


def test_broken_images_are_left_out_and_never_anothers(
    manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(manifest.root, folder)
    changed = dataclasses.replace(manifest, root=folder)
    changed.file(3).unlink()
    changed.file(5).write_bytes(changed.file(6).read_bytes())
    found = cached(changed, VIEW, tmp_path / "cache")
    assert np.flatnonzero(found.at < 0).tolist() == [3, 5]
    assert "changed since the dataset was listed" in caplog.text
    assert cached(changed, VIEW, tmp_path / "cache").at.tolist() == found.at.tolist()
    rows = sets_of(changed, found, 0, max_train=0, seed=0)
    assert not {3, 5} & {*rows.train, *rows.val, *rows.test}
    assert rows.left_out == 2


# -- a tuned network is a network


@pytest.fixture(scope="module")
def tuned(manifest: Manifest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    run_strategy("finetune", manifest, world.weights(), world.params(head="vgg", epochs=1), out, cache=cache)
    return out


@pytest.mark.network
def test_a_tuned_network_is_read_as_weights_up_to_fc8(tuned: Path, manifest: Manifest) -> None:
    weights = read_canonical(tuned / saved.MODEL)
    assert weights.arch == "tinyvgg-32px-fc12-10"
    assert weights.classes == world.CLASSES
    assert held_layers(weights)[-1] == "prob"
    assert weights.provenance["source"] == "finetune:finetune"
    assert weights.provenance["from_sha256"] == world.weights().sha256
    model = saved.read(tuned)
    file = manifest.file(0)
    x = model.model.normalise(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    values = Network.of(weights)(x, ("fc7", "prob"))
    assert values["fc7"].shape == (1, 10, 1, 1)
    torch.testing.assert_close(values["prob"][:, :, 0, 0], model.model.top(model.model.body(x)).softmax(dim=1))
    assert model.probabilities([file]).shape == (1, 3)


@pytest.mark.network
def test_codes_of_a_tuned_network_are_extracted_like_any_others(
    tuned: Path, manifest: Manifest, tmp_path: Path
) -> None:
    weights = read_canonical(tuned / saved.MODEL)
    params = preset(
        config.CodesParams,
        layers=["pool5-avg", "fc6-flatten", "fc7-flatten"],
        crop=32,
        scales=[36],
        precision="fp32",
        dtype="float32",
        device="cpu",
    )
    found = extract(manifest, weights, params, tmp_path / "codes", cache=tmp_path / "cache")
    assert [found[s].dim for s in params.layers] == [16, 12, 10]
    # fc8 of these fc7 codes is what the classifier says.
    rows = manifest.rows("test")[:3]
    codes = torch.from_numpy(found["fc7-flatten"].by_id(manifest.ids[rows]).astype(np.float32))
    logits = codes @ weights.tensors["fc8.weight"].T + weights.tensors["fc8.bias"]
    shown = saved.read(tuned).probabilities([manifest.file(int(i)) for i in rows])
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), shown, atol=2e-2)


@pytest.mark.network
def test_model_files_that_do_not_belong_together_are_refused(
    tuned: Path, manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    shutil.copy(tuned / saved.HEAD, tmp_path)
    with pytest.raises(UserError, match=r"no .*model.safetensors"):
        saved.read(tmp_path)
    (tmp_path / saved.MODEL).write_bytes((tuned / saved.MODEL).read_bytes()[:-9])
    with pytest.raises(UserError, match="not a whole"):
        saved.read(tmp_path)
    other = tmp_path / "other"
    run_strategy("frozen", manifest, world.weights(), world.params(epochs=1), other, cache=cache)
    shutil.copy(tuned / saved.HEAD, other)
    with pytest.raises(UserError, match="of another architecture"):
        saved.read(other)
    with pytest.raises(UserError, match="can't be read"):
        saved.read(tuned).probabilities([tmp_path / "none.png"])


@pytest.mark.network
def test_scores_of_a_hinge_loss_are_not_called_probabilities(
    tuned: Path, manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    params = world.params(head="vgg", epochs=1, loss="hinge")
    run_strategy("finetune", manifest, world.weights(), params, tmp_path / "hinge", cache=cache)
    image = manifest.file(0)
    for folder, loss, known in ((tuned, "cross_entropy", True), (tmp_path / "hinge", "hinge", False)):
        assert saved.read(folder).loss == loss
        (answer,) = transfer.predict(folder, [image])
        assert answer["probabilities"] is known
        assert sum(c["score"] for c in answer["classes"]) == pytest.approx(1, abs=1e-5)
    # Used directly, the network brings the loss that it was trained with, whatever the params say of training.
    source = read_canonical(tmp_path / "hinge" / saved.MODEL)
    direct = run_strategy("direct", manifest, source, world.params(), tmp_path / "direct", cache=cache)
    assert direct["mean"]["log_loss"] is None
    assert saved.read(tmp_path / "direct").loss == "hinge"


@pytest.mark.network
def test_a_file_that_does_not_say_its_loss_is_read_and_claims_nothing(
    tuned: Path, manifest: Manifest, tmp_path: Path
) -> None:
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)

    def rewrite(**changes: Any) -> None:
        about = {"version": 1, "classes": list(world.CLASSES), "size": 32, "kind": "tuned", "arch": "tinyvgg"}
        about |= {"head": "vgg", "widths": [12, 10], "provenance": {}}
        about |= {"view": {"view": "crop", "scale": 36, "background": [255, 255, 255]}}
        save_file({}, tmp_path / saved.HEAD, metadata={"cnncodes": json.dumps(about | changes)})

    rewrite()
    assert saved.read(tmp_path).loss is None
    (answer,) = transfer.predict(tmp_path, [manifest.file(0)])
    assert answer["probabilities"] is None
    (same,) = transfer.predict(tuned, [manifest.file(0)])
    assert answer["classes"] == same["classes"]
    rewrite(version=3)
    with pytest.raises(UserError, match="version 3; allowed: 1, 2"):
        saved.read(tmp_path)


@pytest.mark.network
def test_a_gap_network_is_weights_up_to_its_last_pooling(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    run_strategy("frozen", manifest, world.weights(), world.params(epochs=1), tmp_path, cache=cache)
    weights = read_canonical(tmp_path / saved.MODEL)
    assert (weights.arch, held_layers(weights)[-1]) == ("tinyvgg", "pool5")
    assert all(torch.equal(t, world.weights().tensors[n]) for n, t in weights.tensors.items())
    assert json_files.read(tmp_path / "metrics.json")["trained"] == "classifier at 1"


# -- curves


def test_gains_by_hand() -> None:
    rising = [0.2, 0.4, 0.6, 0.75, 0.8]
    assert gains.shape(rising) == gains.Shape(0.2, pytest.approx(0.55 / 3), 0.8)
    assert gains.shape([0.5, 0.4]) == gains.Shape(0.5, 0.0, 0.4)
    assert gains.shape([0.7]) == gains.Shape(0.7, 0.0, 0.7)

    def curve(values: list[float]) -> list[dict[str, Any]]:
        return [{"val_accuracy": v} for v in values]

    found = gains.gains([curve(rising), curve([0.5] * 5)], [curve([0.1] * 5), curve([0.3] * 5)])
    assert found == pytest.approx({"start": 0.15, "slope": 0.55 / 6, "asymptote": 0.45})
    assert gains.gains([curve([math.nan])], []) is None
    assert gains.gains([[{"val_accuracy": None}]], [curve([0.5])]) is None


def test_an_image_that_was_away_is_not_lost_for_good(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(manifest.root, folder)
    moved = dataclasses.replace(manifest, root=folder)
    moved.file(3).rename(tmp_path / "away")
    assert cached(moved, VIEW, tmp_path / "cache").at[3] == -1
    (tmp_path / "away").rename(moved.file(3))
    names = decoded_by(monkeypatch)
    found = cached(moved, VIEW, tmp_path / "cache")
    assert names == [moved.file(3).name]
    whole = cached(manifest, VIEW, tmp_path / "other")
    assert found.at.tolist() == whole.at.tolist()
    every = np.arange(len(whole.pixels))
    assert (found.pixels[every] == whole.pixels[every]).all()


def test_a_stop_before_the_list_of_what_is_left_out_leaves_no_pixels_without_one(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(manifest.root, folder)
    moved = dataclasses.replace(manifest, root=folder)
    moved.file(3).rename(tmp_path / "away")
    cached(moved, VIEW, tmp_path / "cache")
    (tmp_path / "away").rename(moved.file(3))
    with monkeypatch.context() as stopped:
        stopped.setattr(images, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cached(moved, VIEW, tmp_path / "cache")
    assert not list((tmp_path / "cache" / images.FOLDER).glob("*.json"))
    found, whole = cached(moved, VIEW, tmp_path / "cache"), cached(manifest, VIEW, tmp_path / "other")
    assert found.path.read_bytes() == whole.path.read_bytes()


def test_an_image_that_needs_too_much_memory_is_left_out_until_there_is_more(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look = images.cost.look

    def odd(file: BinaryIO, *, max_pixels: int) -> Header:
        header = look(file, max_pixels=max_pixels)
        return dataclasses.replace(header, bytes=100 << 20) if file.name == str(manifest.file(3)) else header

    monkeypatch.setattr(images.cost, "look", odd)
    few = cached(manifest, VIEW, tmp_path, memory_mb=16)
    assert np.flatnonzero(few.at < 0).tolist() == [3]
    assert f"{manifest.paths[3]}: needs 100 MB of memory, more than codes.compute.memory_mb (16)" in caplog.text
    assert cached(manifest, VIEW, tmp_path, memory_mb=16).key == few.key
    whole = cached(manifest, VIEW, tmp_path, memory_mb=128)
    assert (whole.at >= 0).all() and whole.key != few.key
    # What is there needs no decoding, so no memory.
    assert cached(manifest, VIEW, tmp_path, memory_mb=16).key == whole.key
