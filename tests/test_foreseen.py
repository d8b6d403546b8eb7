"""What can be known before the first image is opened is said before it, with what is allowed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import collection, config, transfer, workspace
from pipeline.base.errors import UserError
from pipeline.base.writable import require_writable
from pipeline.cli.app import app
from pipeline.config import FinetuneParams, read_params
from pipeline.data import build as build_module
from pipeline.data.mapped import require_labels
from pipeline.data.sources import Record
from pipeline.hashing import base as hashing
from pipeline.sections import Sections
from tests import yaml_files
from tests.pictures import draw_classes

ROOT = Path(__file__).parent.parent
TINY = {"arch": "tinyvgg", "weights": "random:0"}
SMALL: dict[str, Any] = {"codes": {"crop": 32, "scales": [32], "precision": "fp32"}}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, the first of which must not be opened."""
    draw_classes(tmp_path / "photos", per_class=4)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(build_module, "verify", opened)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_the_trap_works(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="an image was opened"):
        collection.build(photos, tmp_path / "new", **TINY, **SMALL)


INDEXES: list[tuple[dict[str, Any], str]] = [
    ({"hasher": "topk"}, "does not make short codes; allowed: lsh, pca, itq"),
    ({"hasher": "ipq"}, "does not make short codes"),
    ({"nbits": 12}, "12 bits; allowed: a positive multiple of 8"),
    ({"nbits": 100_000}, "100,000 bits; allowed: a multiple of 8 up to 16,384"),
    ({"nbits": 16_392, "hasher": "lsh"}, "16,392 bits; allowed: a multiple of 8 up to 16,384"),
    ({"hasher": "pca", "nbits": 64}, "64 bits of codes with 16 values; allowed: at most 16"),
    ({"hasher": "learned", "nbits": 16}, "learned of 16 bits can't be fitted on 12 images; allowed: 17 or more"),
    ({"layers": ["conv9_9"]}, "no layer 'conv9_9'; allowed: conv1_1"),
    ({"layers": ["fc7"]}, "needs images of at least 64 x 64 pixels"),
    ({"layers": ["conv5_3-sum"]}, "not LAYER-POOLING"),
    ({"long_layer": "pool5-flatten-sigmoid"}, "takes the sigmoid itself"),
    ({"long": ["bottomk"]}, "unknown long codes bottomk; allowed: topk, sigmoid"),
    ({"codes": {"precision": "fp8"}}, "'auto', 'fp32', 'bf16' or 'fp16'"),
    ({"codes": {"device": "mps"}}, "device mps is not on this machine"),
    ({"dataset": {"splits": "some"}}, "'random' or 'folders'"),
]


@pytest.mark.parametrize(("wrong", "said"), INDEXES)
def test_an_index(wrong: dict[str, Any], said: str, photos: Path, tmp_path: Path) -> None:
    codes = SMALL["codes"] | wrong.get("codes", {})
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        collection.build(photos, tmp_path / "new", **TINY, **(wrong | {"codes": codes}))
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))


def test_labels_for_a_hash_that_needs_them(photos: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for i, file in enumerate(sorted(photos.rglob("*.png")) * 3):
        shutil.copyfile(file, plain / f"{i}.png")
    with pytest.raises(UserError, match="supervised was given 0 classes; allowed: two or more"):
        collection.build(plain, tmp_path / "new", hasher="supervised", nbits=16, **TINY, **SMALL)


def test_an_index_that_cannot_be_added_to(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    folder = collection.build(photos, tmp_path / "my.index", **TINY, **SMALL).folder
    monkeypatch.setattr(build_module, "verify", lambda *_, **__: pytest.fail("an image was opened"))
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (Path(path) == folder and mode & os.W_OK) and real(path, mode)
    )
    with pytest.raises(UserError, match=r"no permission to write .*my\.index"):
        collection.add(folder, photos)
    monkeypatch.setattr(os, "access", real)
    next((folder / "weights").iterdir()).unlink()
    with pytest.raises(UserError, match="no weights file at"):
        collection.add(folder, photos)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p, o: workspace.extract(p, out=o, layers=["fc7-avg"], **TINY, **SMALL), "at least 64 x 64"),
        (lambda p, o: workspace.extract(p, out=o, layers=["conv9-avg"], **TINY, **SMALL), "no layer 'conv9'"),
        (lambda p, o: workspace.extract(p, out=p / "red/0.png/codes", **TINY, **SMALL), "0.png is a file"),
        (lambda p, o: transfer.finetune(p, out=p / "red/0.png", **TINY), "is a file"),
        (lambda p, o: transfer.finetune(p, out=o, strategies=["froze"], **TINY), "allowed: direct, frozen"),
        (lambda p, o: transfer.finetune(p, out=o, settings={"batch_size": 0}, **TINY), "batch_size"),
        (lambda p, o: transfer.finetune(p, out=o, strategies=["direct"], **TINY), "names of the source's classes"),
        (lambda p, o: transfer.find_rate(p, "froze", low=1e-6, high=1, steps=9, **TINY), "allowed: direct, frozen"),
        (lambda p, o: transfer.find_rate(p, "frozen", low=1.0, high=0.1, steps=9, **TINY), "0 < low < high"),
        (lambda p, o: transfer.find_rate(p, "frozen", low=0.1, high=1, steps=2, **TINY), "3 steps or more"),
        (lambda p, o: transfer.find_rate(p, "finetune_top", low=0.1, high=1, steps=5, arch="alexnet",
                                         weights="random:0"), "no layer 'conv5_1'"),
        (lambda p, o: transfer.sanity(p, "froze", **TINY), "allowed: direct, frozen"),
        (lambda p, o: transfer.sanity(p, "frozen", how={"rounds": 9}, **TINY), "rounds"),
        (lambda p, o: transfer.sanity(p, "frozen", how={"grid_rates": [3.0, 1.0]}, **TINY), "must rise"),
    ],
)  # fmt: skip
def test_codes_and_strategies(call: Callable[[Path, Path], Any], said: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        call(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run(*args: str) -> str:
    """What a command that must fail says."""
    done = CliRunner().invoke(app, list(args), standalone_mode=False)
    assert isinstance(done.exception, Exception), done.output
    return str(done.exception)


def test_commands(photos: Path) -> None:
    small = ("--arch", "tinyvgg", "--weights", "random:0", "--size", "32", "--precision", "fp32")
    assert "unknown reference" in run("advise", "photos", *small, "--reference", "no.h5")
    assert "no layer 'conv9'" in run("advise", "photos", *small, "--layers", "conv9")
    assert "is a folder" in run("weights", "reference", "photos", *small, "--out", "photos")
    plot = ("--plot", "curve.gif")
    assert ".png" in run("lr-find", "photos", "--strategy", "frozen", *plot)
    assert "is a file" in run("lr-find", "photos", "--strategy", "frozen", "--plot", "photos/red/0.png/curve.png")
    assert ".webp" in run("search", "no.index", "photos/red/0.png", "--montage", "found.gif")
    assert "is a file" in run("search", "no.index", "a.png", "--montage", "photos/red/0.png/found.png")


def changed(tmp_path: Path, **sections: dict[str, Any]) -> Path:
    values = read_params(ROOT / "params.yaml")
    for name, keys in sections.items():
        values[name] = values[name] | keys
    path = tmp_path / "params.yaml"
    path.write_text(yaml_files.dump_params(values))
    return path


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"codes": {"layers": ["conv9_9-avg"]}}, "codes.layers: vgg16 has no layer 'conv9_9'; allowed: conv1_1"),
        ({"codes": {"layers": ["fc7-avg"]}}, "codes.layers: fc7 of vgg16 needs images of at least 224"),
        ({"tuned": {"layers": ["conv9_9-avg"], "hashes": []}}, "tuned.layers: vgg16 has no layer"),
        ({"tuned": {"strategy": "fine"}}, "tuned.strategy is 'fine', allowed: .*frozen"),
        ({"sanity": {"strategies": ["froze"]}}, r"sanity.strategies names \['froze'\], allowed: .*frozen"),
        ({"retrieval": {"settings": {"itq": {"turns": 3}}}}, "itq16-conv5_3-avg: hasher itq has no parameter turns"),
        ({"retrieval": {"settings": {"itq": {"iterations": "many"}}}}, "iterations: int"),
        ({"retrieval": {"approximate": {"ivf": {"lists": 2, "looks": 1}}}}, "approximate.ivf.*allowed: lists, probes"),
    ],
)
def test_the_first_stage_checks_all_sections(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        Sections.load(changed(tmp_path, **sections))


@pytest.mark.parametrize("name", ["params.yaml", "experiments/cifar10.yaml", "experiments/gender.yaml"])
def test_shipped_params_fit_together(name: str) -> None:
    Sections.load(ROOT / name)


def test_labels_of_a_direct_strategy_are_among_the_classes(tmp_path: Path) -> None:
    strategies = read_params(ROOT / "params.yaml")["finetune"]["strategies"]
    strategies["direct"]["labels"] = {"kat": ["tabby, tabby cat"]}
    params = config.load(FinetuneParams, changed(tmp_path, finetune={"run": ["direct"], "strategies": strategies}))
    with pytest.raises(UserError, match=r"direct\.labels has unknown target classes kat; allowed: cat, dog"):
        require_labels(params, [Record("a.png", label="cat"), Record("b.png", label="dog")])
    require_labels(params, [Record("a.png", label="kat")])


@pytest.mark.parametrize("name", hashing.HASHERS)
def test_a_length_that_cannot_be_is_foreseen(name: str) -> None:
    params = hashing.make(name).params()
    if "nbits" in params:
        with pytest.raises(UserError, match="multiple of 8"):
            hashing.check_fit(hashing.make(name, nbits=12))
        hashing.check_fit(hashing.make(name, nbits=16), 16)
    elif "k" in params:
        with pytest.raises(UserError, match="1 to 24"):
            hashing.check_fit(hashing.make(name, k=25), 24)
    else:
        with pytest.raises(UserError, match="multiple of 8"):
            hashing.check_fit(hashing.make(name), 12)


def test_what_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path)
    require_writable(tmp_path / "new/deep")
    require_writable(tmp_path / "file", folder=False)
    for path, folder, said in (
        (tmp_path / "file", True, "is a file"),
        (tmp_path, False, "is a folder"),
        (tmp_path / "file/deep/new", True, "file is a file"),
    ):
        with pytest.raises(UserError, match=said):
            require_writable(path, folder=folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"no permission .*{tmp_path}"):
        require_writable(tmp_path / "new")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
