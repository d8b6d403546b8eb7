"""`cnncodes finetune`, `lr-find` and `predict` with a tuned network."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline import transfer
from pipeline.base import unfinished
from pipeline.base.cache import TRAINING
from pipeline.cli.app import app
from pipeline.heads import finished as heads_finished
from pipeline.strategies import checkpoints, features, finished, images
from tests import yaml_files
from tests.cli.process import cnncodes
from tests.cli.test_codes import error_of
from tests.pictures import draw_classes
from tests.test_imports import ROOT

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both

SMALL = ["--arch", "tinyvgg", "--weights", "random:0", "--size", "32", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ of three colours, and tuned/ made from it with two strategies."""
    folder = tmp_path_factory.mktemp("finetune")
    draw_classes(folder / "photos", per_class=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        names = ["--strategy", "frozen", "--strategy", "cnn"]
        own = ["--epochs", "2", "--repeats", "2", "--layers"]
        done = cnncodes("finetune", "photos", "--out", "tuned", *SMALL, *names, *own, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(place / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_table_and_the_per_layer_tables_are_printed(place: Path) -> None:
    lines = (place / "stdout").read_text().splitlines()
    assert lines[0].split()[:3] == ["strategy", "trained", "epochs"]
    assert {line.split()[0] for line in lines[1:3]} == {"frozen", "cnn"}
    assert all("±" in line and "%" in line for line in lines[1:3])
    table = lines[lines.index("frozen") :]
    assert "multiple" in table[1] and any(line.startswith("conv1_1") and "frozen" in line for line in table)


def test_what_was_measured_is_on_disk(place: Path) -> None:
    record = json.loads((place / "tuned/finetune/frozen/metrics.json").read_text())
    assert record["params"]["size"] == 32 and record["params"]["epochs"] == 2
    assert [r["repeat"] for r in record["repeats"]] == [0, 1]
    assert (place / "tuned/weights/weights.safetensors").is_file()
    assert (place / "tuned/finetune/cnn/predictions.csv").is_file()


@pytest.mark.parametrize("name", ["frozen", "cnn"])
def test_predict_takes_a_tuned_network(place: Path, name: str) -> None:
    image = next((place / "photos/red").iterdir())
    done = cnncodes("predict", f"tuned/finetune/{name}", image, "--json", cwd=place)
    (answer,) = json.loads(done.stdout)
    assert [c["label"] for c in answer["classes"]] != []
    assert sum(c["score"] for c in answer["classes"]) == pytest.approx(1, abs=1e-4)
    scores = [c["score"] for c in answer["classes"]]
    assert scores == sorted(scores, reverse=True)


def test_predict_answers_for_those_that_it_can(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    asked = [str(tmp_path / "bad.jpg"), "photos/red", str(tmp_path / "none.jpg")]
    done = cnncodes("predict", "tuned/finetune/frozen", *asked, "--json", cwd=place)
    assert done.returncode == 3, done.stderr
    bad, *good, none = json.loads(done.stdout)
    assert [a["image"] for a in good] == sorted(f"photos/red/{p.name}" for p in (place / "photos/red").iterdir())
    assert all(a["classes"] for a in good)
    assert "error" in bad and none["error"].startswith("can't be read")
    done = cnncodes("predict", "tuned/finetune/frozen", asked[0], asked[2], "--json", cwd=place)
    assert done.returncode == 2 and done.stdout == "" and "2 of 2 images cannot be read" in done.stderr


def test_the_table_of_predict_says_what_its_scores_are(place: Path) -> None:
    image = next((place / "photos/red").iterdir())
    done = cnncodes("predict", "tuned/finetune/frozen", image, cwd=place)
    assert done.stdout.split()[:4] == ["image", "rank", "label", "probability"] and "hinge" not in done.stdout
    section = yaml_files.params(ROOT / "params.yaml")["finetune"] | {"loss": "hinge", "run": ["fc"]}
    (place / "hinge.yaml").write_text(yaml_files.dump_params({"finetune": section | {"epochs": 1, "repeats": 1}}))
    made = cnncodes("finetune", "photos", "--out", "hinge", *SMALL, "--params", "hinge.yaml", cwd=place)
    assert made.returncode == 0, made.stderr
    done = cnncodes("predict", "hinge/finetune/fc", image, cwd=place)
    assert done.stdout.split()[:4] == ["image", "rank", "label", "score"]
    assert "no probabilities: the network was trained with hinge loss" in done.stdout


def test_checkpoints_are_kept_listed_asked_and_gone_on_from(place: Path) -> None:
    names = ["--strategy", "fc", "--strategy", "cnn", "--repeats", "1", "--precision", "fp32"]
    made = cnncodes(
        "finetune", "photos", "--out", "kept", *SMALL, *names, "--epochs", "4", "--keep-every", "2", cwd=place
    )
    assert made.returncode == 0, made.stderr
    listed = json.loads(cnncodes("checkpoints", "kept", "--json", cwd=place).stdout)
    assert [(one["strategy"], one["name"]) for one in listed] == [
        (strategy, f"epoch-000{epoch}") for strategy in ("cnn", "fc") for epoch in (2, 4)
    ]
    assert all(0 <= one[key] <= 1 for one in listed for key in ("val_accuracy", "test_accuracy"))
    table = cnncodes("checkpoints", "kept/finetune/fc", cwd=place).stdout.splitlines()
    assert table[0].split()[:3] == ["strategy", "checkpoint", "epoch"] and len(table) == 3

    image = next((place / "photos/red").iterdir())
    asked = ["predict", "kept/finetune/fc", image, "--json", "--checkpoint"]
    early, late = (json.loads(cnncodes(*asked, f"epoch-000{e}", cwd=place).stdout) for e in (2, 4))
    assert early[0]["classes"] != late[0]["classes"]
    assert "has no checkpoint 'epoch-0003'; allowed: epoch-0002, epoch-0004" in error_of(
        cnncodes(*asked, "epoch-0003", cwd=place)
    )

    # Its own strategy, settings and weights; by the folder that the run filled, whose images and splits they are.
    file = listed[2]["file"]
    for source, out in (("photos", "on"), ("kept", "on-kept")):
        done = cnncodes("finetune", source, "--out", out, "--resume", file, cwd=place)
        assert done.returncode == 0, done.stderr
        assert f"goes on from epoch 2 of {file}" in done.stderr
        for name in ("model.safetensors", "predictions.csv", "curves.csv"):
            own, whole = place / out / "finetune/fc" / name, place / "kept/finetune/fc" / name
            assert own.read_bytes() == whole.read_bytes()
    for more, said in (
        (["--strategy", "cnn"], "is a checkpoint of strategy fc, not of cnn"),
        (["--optimiser", "sgd"], "optimiser: adam there, sgd here"),
        (["--weights", "random:1", "--arch", "tinyvgg"], "weights: random:0 there, random:1 here"),
        (["--epochs", "1"], "is of epoch 2, and finetune.loop.epochs is 1; allowed: 2 or more"),
    ):
        assert said in error_of(cnncodes("finetune", "photos", "--out", "no", "--resume", file, *more, cwd=place))
    assert not (place / "no/finetune").exists()


def test_a_folder_without_checkpoints_says_how_to_keep_some(place: Path) -> None:
    done = cnncodes("checkpoints", "tuned", cwd=place)
    assert done.returncode == 0 and "--keep-every N" in done.stdout
    assert json.loads(cnncodes("checkpoints", "tuned", "--json", cwd=place).stdout) == []
    assert "photos has no strategies in it" in error_of(cnncodes("checkpoints", "photos", cwd=place))


def test_options_reach_the_training(place: Path) -> None:
    options = ["--optimiser", "rmsprop", "--schedule", "step", "--momentum", "0.5", "--precision", "fp32"]
    names = ["--strategy", "fc", "--epochs", "1", "--repeats", "1"]
    done = cnncodes("finetune", "photos", "--out", "options", *SMALL, *names, *options, "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["fc"]["params"]
    assert (found["optimiser"], found["momentum"], found["precision"]) == ("rmsprop", 0.5, "fp32")
    assert found["schedule"] == {"kind": "step", "warmup": 0.1, "every": 1, "factor": 0.1}


def test_a_page_of_what_was_trained(place: Path) -> None:
    assert (place / "stdout").read_text().splitlines()[-1] == "tuned/report/index.html"
    page = (place / "tuned/report/index.html").read_text()
    for anchor in ("result", "strategies", "method"):
        assert f'<section id="{anchor}"' in page
    assert "<h3>Codes</h3>" not in page and '<section id="layers"' not in page
    found = json.loads((place / "tuned/report/metrics.json").read_text())
    assert found["strategy_accuracy"].keys() == {"frozen", "cnn"} and found["classes"] == 3
    assert (place / "tuned/report/strategies.csv").is_file()


def test_lr_find_draws_its_curve_in_a_workspace(place: Path) -> None:
    own = ["--strategy", "frozen", "--steps", "12", "--low", "1e-4", "--high", "1"]
    done = cnncodes("lr-find", "tuned", *own, *SMALL[4:], "--plot", "lr.png", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["rates"]) == len(found["losses"]) <= 12
    assert found["rates"][0] == pytest.approx(1e-4)
    with Image.open(place / "lr.png") as picture:
        assert picture.size == (1050, 600)


def test_a_params_file_brings_its_own_strategies(place: Path) -> None:
    section = yaml_files.params(ROOT / "params.yaml")["finetune"]
    section["strategies"] = {"mine": section["strategies"]["fc"]}
    (place / "own.yaml").write_text(yaml_files.dump_params({"finetune": section | {"run": ["mine"], "epochs": 1}}))
    done = cnncodes("finetune", "photos", "--out", "own", *SMALL, "--params", "own.yaml", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mine"]["kind"] == "fc"
    (place / "empty.yaml").write_text("codes: {}\n")
    assert "it names no preset; allowed: `cnncodes params convert empty.yaml" in error_of(
        cnncodes("finetune", "photos", "--out", "own", "--params", "empty.yaml", cwd=place)
    )


def test_what_training_keeps_is_told_and_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = place / "own-cache"
    shutil.copytree(place / "cache", own)
    (own / checkpoints.FOLDER / "run").mkdir(parents=True)
    (own / checkpoints.FOLDER / "run/last.safetensors").write_bytes(b"x" * 1000)
    os.link(own / checkpoints.FOLDER / "run/last.safetensors", own / checkpoints.FOLDER / "run/best.safetensors")
    monkeypatch.setenv("CNNCODES_CACHE", str(own))
    own_folders = {images.FOLDER, features.FOLDER, checkpoints.FOLDER, finished.FOLDER}
    assert set(TRAINING) == own_folders | {heads_finished.FOLDER, unfinished.FOLDER}
    sizes = {row["key"]: row["bytes"] for row in json.loads(cnncodes("cache", "size", "--json", cwd=place).stdout)}
    assert sizes[checkpoints.FOLDER] == 1000 and sizes[images.FOLDER] > 0 and sizes[features.FOLDER] > 0
    told = cnncodes("cache", "size", cwd=place).stdout
    assert "decoded images" in told and "checkpoints" in told
    done = cnncodes("extract", "photos", "--out", "codes", *SMALL[:4], "--layers", "conv5_2", cwd=place)
    assert done.returncode == 0, done.stderr
    kept = json.loads(cnncodes("cache", "gc", "--keep", "codes", "--json", cwd=place).stdout)
    assert (kept["freed_bytes"], (own / checkpoints.FOLDER).exists()) == (0, True)
    freed = json.loads(cnncodes("cache", "gc", "--keep", "codes", "--training", "--json", cwd=place).stdout)
    assert freed["freed_bytes"] == sum(sizes.get(name, 0) for name in TRAINING)
    assert not any((own / name).exists() for name in TRAINING)


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_machine_that_trained_along_says_so(json_flag: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    follows = "machine 1 of 2, which meet at a:1"
    monkeypatch.setattr(transfer, "finetune", lambda *_, **__: {"scratch": {"strategy": "scratch", "follows": follows}})
    done = CliRunner().invoke(app, ["finetune", "photos", "--out", "tuned", "--layers", *json_flag])
    assert done.exit_code == 0
    assert follows in done.stdout
    assert not json_flag or json.loads(done.stdout)["scratch"]["follows"] == follows


@pytest.mark.parametrize("command", [["finetune", "--out", "x"], ["lr-find"], ["sanity", "--strategy", "frozen"]])
def test_images_without_labels_are_refused(place: Path, command: list[str]) -> None:
    flat = place / "flat"
    flat.mkdir(exist_ok=True)
    for path in (place / "photos").rglob("*.png"):
        (flat / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    said = error_of(cnncodes(command[0], "flat", *SMALL, *command[1:], cwd=place))
    assert "flat has no labels to learn from; allowed: a folder whose first level is the class" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finetune", "photos", "--out", "x", "--strategy", "magic"], "finetune.run names magic; allowed: direct"),
        (["finetune", "photos", "--out", "x", "--head", "mlp"], "no head 'mlp'; allowed: gap, vgg"),
        (["finetune", "nowhere", "--out", "x", *SMALL], "nowhere"),
        (
            ["finetune", "photos", "--out", "x", *SMALL, "--size", "64", "--strategy", "direct"],
            "class names|names of the source",
        ),
        (["lr-find", "photos", "--plot", "lr.gif"], r"lr\.gif; allowed: a name in \.png"),
        (["lr-find", "photos", *SMALL, "--low", "1", "--high", "0.1"], "shows nothing"),
    ],
)
def test_a_bad_wish_is_one_sentence(place: Path, arguments: list[str], said: str) -> None:
    assert re.search(said, error_of(cnncodes(*arguments, cwd=place)))
    assert not (place / "x" / "finetune").exists()


def test_results_of_other_images_or_weights_go_only_when_it_is_said(place: Path, tmp_path: Path) -> None:
    draw_classes(tmp_path / "others", per_class=6)
    shutil.copytree(place / "tuned", tmp_path / "tuned")
    once = ["--strategy", "frozen", "--epochs", "1", "--repeats", "1"]
    asked = ["finetune", "--out", str(tmp_path / "tuned"), *SMALL, *once]
    said = error_of(cnncodes(*asked, tmp_path / "others", cwd=place))
    assert "would go: cnn, frozen (images of" in said and "--replace" in said
    said = error_of(cnncodes(*asked, "--weights", "random:1", "photos", cwd=place))
    assert "would go: cnn, frozen (other weights)" in said
    done = cnncodes(*asked, tmp_path / "others", "--replace", cwd=place)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "tuned/finetune").iterdir()] == ["frozen"]
