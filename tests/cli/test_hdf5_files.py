"""--train and --test in place of a folder, on every command that takes one; from Python too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pipeline
from pipeline import collection, transfer
from pipeline.cli.app import app
from pipeline.data.manifest import Manifest
from pipeline.export_images import export_images
from tests import peak
from tests.pictures import draw_classes

h5py = pytest.importorskip("h5py")
pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both

NETWORK = ["--arch", "tinyvgg", "--weights", "random:0", "--size", "32"]
TUNED = [*NETWORK, "--batch-size", "8", "--device", "cpu"]
SMALL = {"crop": 32, "scales": [32]}
FILES = ["--train", "set/train.h5", "--test", "set/test.h5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """set/ of train.h5 (24 images), test.h5 (12) and classes.txt of three colours."""
    folder = tmp_path_factory.mktemp("hdf5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(folder / "cache"))
        export_images(
            draw_classes(folder / "photos", per_class=12), folder / "set", size=36, dataset={"test_share": 0.34}
        )
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)


def run(*args: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, args)
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def answer(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*args, "--json"))
    return found


def targets_of_test() -> list[int]:
    with h5py.File("set/test.h5") as f:
        return [int(v) for v in f["output"][:, 0]]


def test_extract_then_compare_and_advise() -> None:
    about = answer("extract", *FILES, "--out", "codes", *NETWORK, "--layers", "conv5_2")
    assert about["conv5_2-avg"]["images"] == 36 and about["left_out"] == []
    manifest = Manifest.read("codes/dataset")
    assert len(manifest.rows("test", 4)) == 12 and manifest.from_source == ("train", "test")
    order = manifest.as_stored(manifest.rows("test"))
    assert manifest.targets[order].tolist() == targets_of_test()
    assert run("compare", "codes", "--heads", "svm").strip().endswith("index.html")
    assert json.loads(Path("codes/heads/conv5_2-avg-svm/metrics.json").read_text())["repeats"][0]["n_test"] == 12
    of_files = answer("advise", *FILES, *NETWORK, "--layers", "conv5_2-avg")
    assert answer("advise", "codes")["images"] == of_files["images"]


def test_an_index_keeps_the_images_that_it_shows() -> None:
    about = answer("index", *FILES, "--out", "my.index", *NETWORK)
    assert about["images"] == 36 and about["roots"] == [str(Path("my.index/images").resolve())]
    assert run("index", "verify", "my.index", "--files").strip() == "my.index is whole"
    found = answer("search", "my.index", "my.index/images/test/0000/00000000.png", "-k", "1")
    assert Path(found["neighbours"][0]["path"]).is_file()
    assert not list(Path("cache/work").iterdir())


def test_finetune_writes_inference_txt_in_the_order_of_the_test_file() -> None:
    own = ["--strategy", "cnn", "--epochs", "1", "--repeats", "1", "--inference-txt"]
    records = answer("finetune", *FILES, "--out", "tuned", *TUNED, *own)
    lines = Path("tuned/finetune/cnn/inference.txt").read_text().splitlines()
    assert lines[0] == "inference, target"
    assert [int(line.rsplit(", ", 1)[1]) for line in lines[1:]] == targets_of_test()
    best = [int(np.argmax(list(map(float, line[1 : line.index("]")].split(" "))))) for line in lines[1:]]
    right = np.mean(np.array(best) == targets_of_test())
    assert records["cnn"]["repeats"][0]["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("command", [["lr-find", "--steps", "3"], ["sanity", "--epochs", "1", "--rounds", "1"]])
def test_lr_find_and_sanity(command: list[str]) -> None:
    done = CliRunner().invoke(app, [command[0], *FILES, "--strategy", "cnn", *TUNED, *command[1:], "--json"])
    assert done.exit_code in (0, 1, 3), (done.output, done.exception)  # 1 and 3: nothing to learn in so few steps
    assert json.loads(done.stdout)["left_out"] == []
    assert not list(Path("cache/work").iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["extract", "--out", "x"],
        ["index", "build", "--out", "x"],
        ["advise"],
        ["finetune", "--out", "x"],
        ["lr-find"],
        ["sanity"],
    ],
)
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ([], "there are no images; allowed: a folder of images, or HDF5 files by --train FILE"),
        (["photos", *FILES], "there are both the folder photos and "),
        (FILES[2:], "test names files and train none"),
    ],
)
def test_it_is_a_folder_or_files(command: list[str], where: list[str], words: str) -> None:
    done = CliRunner().invoke(app, [*command, *where])
    assert words in str(done.exception)
    assert not Path("x").exists()


def test_several_files_and_the_same_from_python(tmp_path: Path) -> None:
    train, test = ["set/train.h5", "set/test.h5"], [tmp_path / "more.h5"]
    with h5py.File("set/test.h5") as f, h5py.File(test[0], "w") as copy:
        for name in f:
            f.copy(name, copy)
        copy["input"][...] = 255 - f["input"][...]
    small: dict[str, Any] = {"arch": "tinyvgg", "weights": "random:0", "test": test}
    space = pipeline.extract(out=tmp_path / "codes", train=train, layers=["conv5_2-avg"], codes=SMALL, **small)
    assert len(space.manifest()) == 48 and len(space.manifest().rows("test")) == 12
    made = collection.build(None, tmp_path / "my.index", train=train, codes=SMALL, **small)
    assert len(made) == 48
    settings = {"scale": 36, "size": 32, "device": "cpu"}
    swept = transfer.find_rate(None, "cnn", train=train, low=1e-3, high=1, steps=3, settings=settings, **small)
    assert len(swept.rates) == 3


@pytest.mark.slow
def test_training_holds_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the images take no more memory: of 23 and of 46 MB of pixels."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("pipeline.strategies.images._BLOCK_BYTES", 4 << 20)
    side = 160

    def made(name: str, n: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, count in (("train.h5", n), ("test.h5", 8)):
            with h5py.File(folder / file, "w") as f:
                data = f.create_dataset("input", (count, 3 * side * side), dtype=np.uint8)
                data.attrs["lshape"] = (3, side, side)
                for i in range(count):
                    data[i] = np.arange(data.shape[1]) // (i + 1) % 256
                f["output"] = np.arange(count)[:, None] % 2
        return folder

    def train(folder: Path) -> None:
        shutil.rmtree(folder / "tuned", ignore_errors=True)  # or what was finished before is not trained again
        settings = {"scale": side, "size": 32, "batch_size": 8, "epochs": 1, "repeats": 1, "device": "cpu"}
        own: dict[str, Any] = {"strategies": ["cnn"], "arch": "tinyvgg", "weights": "random:0", "settings": settings}
        transfer.finetune(out=folder / "tuned", train=[folder / "train.h5"], test=[folder / "test.h5"], **own)

    small, large, first = made("small", 300), made("large", 600), made("first", 60)
    taken = [peak.of(lambda folder=folder: train(folder), warm=lambda: train(first)) for folder in (small, large)]  # type: ignore[misc]
    assert taken[1] < taken[0] + (12 << 20), taken
