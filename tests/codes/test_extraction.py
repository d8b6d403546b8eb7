"""Extraction as a user meets it: what is computed, what is not, and that outs are a function of their inputs."""

from __future__ import annotations

import csv
import dataclasses
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.codes import Codes, Embedder, embed, extract, info
from pipeline.codes.store import DAMAGED
from pipeline.nets.weights import Weights, write_canonical
from tests.codes.conftest import draw, make_manifest, make_params

pytestmark = pytest.mark.network

Count = Callable[[], int]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_second_run_computes_nothing(images: Path, weights: Weights, tmp_path: Path, count_images: Count) -> None:
    manifest = make_manifest(images)
    first = extract(manifest, weights, make_params(), tmp_path / "out")
    assert count_images() == 10
    before = tree(tmp_path / "out")
    extract(manifest, weights, make_params(), tmp_path / "out")
    assert count_images() == 0 and tree(tmp_path / "out") == before
    assert {name: (len(c), c.dim) for name, c in first.items()} == {"conv3_3-avg": (10, 8), "pool5-flatten": (10, 64)}
    assert np.array_equal(first["pool5-flatten"].ids, manifest.ids)
    assert sorted(before) == [
        "conv3_3-avg/codes.json",
        "conv3_3-avg/part-00000.h5",
        "failures.csv",
        "pool5-flatten/codes.json",
        "pool5-flatten/part-00000.h5",
    ]


def test_only_what_is_new_is_computed(images: Path, weights: Weights, tmp_path: Path, count_images: Count) -> None:
    out = tmp_path / "out"
    extract(make_manifest(images), weights, make_params(), out)
    count_images()
    draw(images / "new.png", 77)
    shutil.copy(images / "0.jpg", images / "copy of 0.jpg")
    (images / "1.png").rename(images / "moved.png")
    codes = extract(make_manifest(images), weights, make_params(), out)["conv3_3-avg"]
    assert count_images() == 1 and len(codes) == 12
    layer = make_params(layers=["conv3_3-avg", "pool5-flatten", "conv4_1-max"])
    untouched = (out / "pool5-flatten/part-00000.h5").stat()
    extract(make_manifest(images), weights, layer, out)
    assert count_images() == 11
    assert (out / "pool5-flatten/part-00000.h5").stat() == untouched
    extract(make_manifest(images), weights, make_params(crop=60), out)
    assert count_images() == 11
    extract(make_manifest(images), weights, make_params(), out)
    assert count_images() == 0
    assert not (out / "conv4_1-max").exists()


def test_pixels_of_another_version_of_the_decoder_are_computed_again_and_no_others(
    images: Path, weights: Weights, tmp_path: Path, count_images: Count
) -> None:
    """As after an update: the rows of the earlier version are in the store, under the sha256 of each file."""
    manifest, out = make_manifest(images), tmp_path / "out"
    before = extract(manifest, weights, make_params(), out)["conv3_3-avg"].rows(slice(None))
    count_images()
    versions = np.ones(len(manifest), dtype=np.int64)
    extract(dataclasses.replace(manifest, decoders=versions), weights, make_params(), out)
    assert count_images() == 0
    versions[[2, 5]] = 2
    rows = extract(dataclasses.replace(manifest, decoders=versions), weights, make_params(), out)["conv3_3-avg"]
    assert count_images() == 2
    assert np.array_equal(rows.ids, manifest.ids)
    np.testing.assert_array_equal(rows.rows(slice(None)), before)
    extract(manifest, weights, make_params(), out)
    assert count_images() == 0


def test_outs_do_not_depend_on_the_past(images: Path, weights: Weights, tmp_path: Path, monkeypatch: Any) -> None:
    """All at once; image by image; layer by layer; after the store was damaged."""
    everything = make_manifest(images)
    params = make_params(layers=["conv3_3-avg", "pool5-flatten", "fc7-avg-l2"])
    extract(everything, weights, params, tmp_path / "at once")
    expected = tree(tmp_path / "at once")

    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "second"))
    some = tmp_path / "some"
    for path in sorted(images.iterdir(), key=lambda p: p.name[::-1]):
        some.mkdir(exist_ok=True)
        shutil.copy(path, some / path.name)
        if path.name[0] in "258":
            extract(make_manifest(some), weights, params, tmp_path / "grown")
    extract(everything, weights, params, tmp_path / "grown")
    assert tree(tmp_path / "grown") == expected

    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "third"))
    for spec in params.layers:
        extract(everything, weights, make_params(layers=[spec]), tmp_path / "by layer")
    for i, shard in enumerate(sorted(cache_root().glob("codes/*/shard-*.h5"))):
        shard.write_bytes(shard.read_bytes()[:-1] if i % 2 else shard.read_bytes().replace(b"\x3f", b"\x40"))
    shutil.rmtree(tmp_path / "by layer")
    extract(everything, weights, params, tmp_path / "by layer")
    assert tree(tmp_path / "by layer") == expected
    assert len(list(cache_root().glob(f"codes/*/shard-*.h5{DAMAGED}"))) == 3


def test_values_are_stored_as_asked(images: Path, weights: Weights, tmp_path: Path) -> None:
    wide = extract(make_manifest(images), weights, make_params(), tmp_path / "a")["pool5-flatten"].rows(slice(None))
    half = extract(make_manifest(images), weights, make_params(dtype="float16"), tmp_path / "b")["pool5-flatten"]
    assert half.dtype == np.float16
    assert np.array_equal(half.rows(slice(None)), wide.astype(np.float16))


def test_a_value_that_does_not_fit_is_an_error(images: Path, weights: Weights, tmp_path: Path) -> None:
    loud = Weights.make(
        weights.arch,
        {n: t * 40 if n.endswith("weight") else t for n, t in weights.tensors.items()},
        weights.preprocessing,
        {},
    )
    manifest = make_manifest(images)
    with pytest.raises(UserError, match=r"pool5-flatten of .*(png|jpg) .*float16 cannot hold; allowed: .*float32"):
        extract(manifest, loud, make_params(dtype="float16", layers=["pool5-flatten"]), tmp_path / "out")
    with pytest.raises(UserError, match=r"fp16 cannot hold; allowed: codes\.compute\.precision: bf16 or fp32"):
        extract(manifest, loud, make_params(precision="fp16", layers=["pool5-flatten"]), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(cache_root().rglob("shard-*"))
    extract(manifest, loud, make_params(layers=["pool5-flatten"]), tmp_path / "out")


def test_lost_and_changed_files_have_no_row(images: Path, weights: Weights, tmp_path: Path) -> None:
    whole = extract(make_manifest(images), weights, make_params(), tmp_path / "whole", cache=tmp_path / "other")
    manifest = make_manifest(images)
    (images / "3.png").unlink()
    shutil.copy(images / "5.png", images / "4.jpg")
    (images / "6.jpg").write_bytes((images / "6.jpg").read_bytes()[:200])
    codes = extract(manifest, weights, make_params(), tmp_path / "out")
    with (tmp_path / "out/failures.csv").open() as f:
        failed = {row["path"]: row for row in csv.DictReader(f)}
    assert sorted(failed) == ["3.png", "4.jpg", "6.jpg"]
    assert "No such file" in failed["3.png"]["reason"] and "changed" in failed["4.jpg"]["reason"]
    for spec, found in codes.items():
        assert len(found) == 7 and not set(found.ids) & {row["id"] for row in failed.values()}
        assert found.rows(slice(None)).tobytes() == whole[spec].by_id(found.ids).tobytes()


def test_embedding_gives_the_row(images: Path, weights: Weights, tmp_path: Path) -> None:
    manifest = make_manifest(images)
    params = make_params(flip=True, layers=["pool5-avg-l2"], dtype="float16")
    codes = extract(manifest, weights, params, tmp_path / "out")["pool5-avg-l2"]
    embedder = Embedder(weights, codes.settings)
    for row in (7, 2):
        assert embedder([manifest.file(row)]).tobytes() == codes.rows(np.array([row])).tobytes()
    several = embed([manifest.file(4).read_bytes(), str(manifest.file(9)), manifest.file(0)], weights, codes.settings)
    assert several.tobytes() == codes.rows(np.array([4, 9, 0])).tobytes()
    with pytest.raises(UserError, match=r"2 of 3 images cannot be read: .*none\.png .*, image 3 \(empty file\)"):
        embedder([manifest.file(0), images / "none.png", b""])


@pytest.mark.parametrize("combine", ["average", "stack"])
def test_dense_multi_scale_is_one_setting(images: Path, weights: Weights, tmp_path: Path, combine: str) -> None:
    """The VGG paper's protocol: whole images, several scales, flip, FC as convolutions, averaged, L2."""
    manifest = make_manifest(images)
    params = make_params(view="whole", scales=[64, 96], flip=True, combine=combine, layers=["fc7-avg-l2"])
    codes = extract(manifest, weights, params, tmp_path / "out")["fc7-avg-l2"]
    rows = codes.rows(slice(None))
    assert rows.shape == (10, 32 * (2 if combine == "stack" else 1))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert embed([manifest.file(1)], weights, codes.settings).tobytes() == rows[1].tobytes()
    if combine == "stack":
        one = extract(manifest, weights, make_params(view="whole", flip=True, layers=["fc7-avg-l2"]), tmp_path / "one")[
            "fc7-avg-l2"
        ].rows(slice(None))
        small = rows[:, :32] / np.linalg.norm(rows[:, :32], axis=1, keepdims=True)
        np.testing.assert_allclose(small, one, rtol=1e-4, atol=1e-6)


def test_refused_before_any_work(images: Path, weights: Weights, tmp_path: Path, count_images: Count) -> None:
    manifest = make_manifest(images)
    short = Weights.make(
        weights.arch, {n: t for n, t in weights.tensors.items() if n[0] == "c"}, weights.preprocessing, {}
    )
    write_canonical(short, tmp_path / "short.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "short.safetensors").read_bytes()[:300])
    for used, changes, why in (
        (weights, {"layers": ["conv9_1-avg"]}, "no layer 'conv9_1'.*allowed: conv1_1"),
        (tmp_path / "short.safetensors", {"layers": ["pool5-avg", "fc7-avg"]}, "stop at pool5, so they have no fc7"),
        (short, {"layers": ["fc6-avg"]}, "stop at pool5"),
        (weights, {"layers": ["fc6-avg"], "crop": 60}, "at least 64 x 64"),
        (weights, {"device": "mps"}, "device mps is not on this machine"),
        (cut, {}, "not whole canonical weights"),
        (tmp_path / "none", {}, "no weights file at"),
    ):
        with pytest.raises(UserError, match=why):
            extract(manifest, used, make_params(**changes), tmp_path / "out")
    assert count_images() == 0 and not (tmp_path / "out").exists() and not cache_root().exists()


def test_too_little_disk_is_refused_at_once(
    images: Path, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_images: Count
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(UserError, match=r"where 1\.0 MB are free"):
        extract(make_manifest(images), weights, make_params(), tmp_path / "out")
    assert count_images() == 0


def test_shares_make_the_whole(images: Path, weights: Weights, tmp_path: Path, count_images: Count) -> None:
    manifest = make_manifest(images)
    counts = []
    for i in (1, 2, 3):
        assert extract(manifest, weights, make_params(), tmp_path / "out", shard=(i, 3)) == {}
        counts.append(count_images())
    assert sum(counts) == 10 and not (tmp_path / "out").exists()
    extract(manifest, weights, make_params(), tmp_path / "out")
    assert count_images() == 0
    extract(manifest, weights, make_params(), tmp_path / "alone", cache=tmp_path / "other")
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


def test_two_runs_at_once(images: Path, weights: Weights, tmp_path: Path) -> None:
    manifest = make_manifest(images)
    problems: list[BaseException] = []

    def one(name: str) -> None:
        try:
            extract(manifest, weights, make_params(), tmp_path / name)
        except BaseException as e:
            problems.append(e)
            raise

    runs = [threading.Thread(target=one, args=(name,)) for name in ("a", "b")]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert not problems
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(Codes.open(tmp_path / "a/conv3_3-avg")) == 10
    assert not list(cache_root().rglob("*.tmp*"))


def test_damaged_parts_and_foreign_folders(images: Path, weights: Weights, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(make_manifest(images), weights, make_params(), out)
    before = tree(out)
    (out / "pool5-flatten/part-00000.h5").write_bytes(before["pool5-flatten/part-00000.h5"][:-10])
    (out / "notes").mkdir()
    (out / "notes/codes.json").write_text("{}")
    (out / "notes/mine.txt").write_text("kept")
    extract(make_manifest(images), weights, make_params(), out)
    assert tree(out) == before | {"notes/codes.json": b"{}", "notes/mine.txt": b"kept"}
    assert info(out / "pool5-flatten")["whole"]


def test_it_says_what_it_will_do(
    images: Path, weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        extract(make_manifest(images), weights, make_params(batch_size=2), tmp_path / "out")
    assert "10 images (10 of them to compute), 2 codes each: conv3_3-avg, pool5-flatten" in caplog.text
    assert "expected time: about" in caplog.text and "10 of 10 images" in caplog.text


def test_shards_say_how_their_codes_were_made(images: Path, weights: Weights, tmp_path: Path) -> None:
    codes = extract(make_manifest(images), weights, make_params(precision="fp32"), tmp_path / "out")["conv3_3-avg"]
    (shard,) = (cache_root() / "codes" / codes.fingerprint).glob("shard-*.h5")
    with h5py.File(shard) as f:
        assert f["codes"].shape == (10, 8) and f.attrs["version"] == 1
        assert weights.sha256 in f.attrs["settings"] and '"precision":"fp32"' in f.attrs["settings"]
