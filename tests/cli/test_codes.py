"""The command line as a person meets it: in a process of its own, with its exit code and its one line of error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.process import ROOT, cnncodes
from tests.pictures import draw_classes

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both

BASE = ["--arch", "tinyvgg", "--weights", "random:0", "--size", "32"]


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user's mistake gives, after checking that it is the only one and the exit code is 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ (12 of each of 3 colours, one broken) and codes/ extracted from it."""
    folder = tmp_path_factory.mktemp("cli")
    draw_classes(folder / "photos", per_class=12)
    (folder / "photos/red/broken.jpg").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(folder / "cache"))
        done = cnncodes("extract", "photos", *BASE, "--layers", "conv5_2,pool3-flatten", "--out", "codes", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def _shared_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(place / "cache"))


def test_extract_lists_what_failed_and_goes_on(place: Path) -> None:
    assert "red/broken.jpg" in (place / "codes/dataset/failures.csv").read_text()


def test_info_spells_out_how_the_codes_were_made(place: Path) -> None:
    done = cnncodes("info", "codes", "--json", cwd=place)
    about = json.loads(done.stdout)
    assert set(about) == {"conv5_2-avg", "pool3-flatten"}
    assert about["conv5_2-avg"]["images"] == 36 and about["conv5_2-avg"]["whole"]
    settings = about["conv5_2-avg"]["settings"]
    assert settings["layer"] == "conv5_2" and settings["crop"] == 32 and settings["dtype"] == "float16"


def test_info_says_when_codes_are_not_whole(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place / "codes", tmp_path / "codes")
    part = next((tmp_path / "codes/codes/conv5_2-avg").glob("part-*.h5"))
    part.write_bytes(part.read_bytes()[:-100])
    done = cnncodes("info", "codes", cwd=tmp_path)
    assert done.returncode == 1
    assert "NOT WHOLE" in done.stdout


def test_a_second_extract_computes_nothing(place: Path) -> None:
    args = ("extract", "photos", *BASE, "--layers", "conv5_2,pool3-flatten", "--out", "codes")
    assert "all of them computed before" in cnncodes(*args, cwd=place).stderr


@pytest.mark.parametrize(("to", "suffix"), [("npy", ".npy"), ("parquet", ".parquet"), ("neon-hdf5", ".h5")])
def test_export_writes_each_format(place: Path, to: str, suffix: str) -> None:
    if to == "parquet":
        pytest.importorskip("pyarrow")
    done = cnncodes("export", "codes", "--layer", "pool3", "--to", to, "--out", f"exported{suffix}", cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / f"exported{suffix}").stat().st_size > 36 * 2
    again = ("export", "codes", "--layer", "pool3", "--to", to, "--out", f"exported{suffix}")
    assert f"exported{suffix} exists; allowed: another --out, or --replace" in error_of(cnncodes(*again, cwd=place))
    assert cnncodes(*again, "--replace", cwd=place).returncode == 0
    if to == "npy":
        assert len(np.load(place / "exported.npy")) == 36


def test_layers_names_shapes_and_bytes(place: Path) -> None:
    rows = json.loads(cnncodes("layers", "--arch", "vgg16", "--json", cwd=place).stdout)["layers"]
    pool5 = next(r for r in rows if r["name"] == "pool5")
    assert pool5 == {
        "name": "pool5",
        "shape": [512, 7, 7],
        "stride": 32,
        "receptive_field": 212,
        "bytes_flatten": 50176,
        "bytes_avg": 1024,
    }


def test_compare_then_predict(place: Path) -> None:
    done = cnncodes("compare", "codes", "--heads", "svm,knn", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["best"]
    assert best["accuracy"] > 0.9
    assert "<html" in (place / "codes/report/index.html").read_text()
    done = cnncodes(
        "predict", "codes/heads/conv5_2-avg-svm", "photos/red/0.png", "photos/blue/1.png", "--json", cwd=place
    )
    assert [a["classes"][0]["label"] for a in json.loads(done.stdout)] == ["red", "blue"]


def test_grids_and_where_a_network_runs_can_be_named(place: Path) -> None:
    done = cnncodes(
        "compare",
        "codes",
        "--layers",
        "conv5_2",
        "--heads",
        "svm,knn",
        "--c-grid",
        "0.5,2",
        "--k-grid",
        "1,3",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    for head, key, allowed in (("svm", "C", {0.5, 2.0}), ("knn", "k", {1, 3})):
        repeats = json.loads((place / f"codes/heads/conv5_2-avg-{head}/metrics.json").read_text())["repeats"]
        assert {repeat["chosen"][key] for repeat in repeats} <= allowed
    asked = ("predict", "codes/heads/conv5_2-avg-svm", "photos/red/0.png")
    done = cnncodes(*asked, "--device", "cpu", "--precision", "fp32", "--json", cwd=place)
    assert json.loads(done.stdout)[0]["classes"][0]["label"] == "red"
    assert "auto, fp32, bf16, fp16" in error_of(cnncodes(*asked, "--precision", "fp8", cwd=place))
    assert "--k-grid '1,x'" in error_of(cnncodes("compare", "codes", "--k-grid", "1,x", cwd=place))
    assert "heads.fit.c_grid has 0" in error_of(cnncodes("compare", "codes", "--c-grid", "0", cwd=place))


def test_predict_answers_for_those_that_it_can(place: Path, tmp_path: Path) -> None:
    head = "codes/heads/conv5_2-avg-svm"
    if not (place / head).exists():
        cnncodes("compare", "codes", "--heads", "svm", "--layers", "conv5_2", cwd=place)
    more = tmp_path / "more"
    shutil.copytree(place / "photos/blue", more / "deep")
    (more / "labels.csv").write_text("path,label\n")
    count = len(list((more / "deep").iterdir()))
    asked = ["photos/red/0.png", "photos/red/broken.jpg", "nowhere.png", str(more)]
    done = cnncodes("predict", head, *asked, "--json", cwd=place)
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert [a["image"] for a in found[:3]] == asked[:3] and len(found) == 3 + count
    assert found[0]["classes"][0]["label"] == "red"
    assert all(a["classes"][0]["label"] == "blue" for a in found[3:])
    assert [a["image"] for a in found[3:]] == sorted(str(p) for p in (more / "deep").iterdir())
    assert "classes" not in found[1] and "No such file" in found[2]["error"]
    done = cnncodes("predict", head, *asked[:3], cwd=place)
    assert done.returncode == 3 and "red" in done.stdout and "nowhere" not in done.stdout
    said = done.stderr.splitlines()
    assert said[-3].startswith("photos/red/broken.jpg: ") and said[-2].startswith("nowhere.png: ")
    assert said[-1] == "2 of 3 images have no answer"
    [alone] = json.loads(cnncodes("predict", head, asked[0], "--json", cwd=place).stdout)
    scores = [[c["score"] for c in one["classes"]] for one in (alone, found[0])]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in error_of(cnncodes("predict", head, str(tmp_path / "empty"), cwd=place))


def test_cache_size_and_gc(place: Path) -> None:
    cnncodes("extract", "photos", *BASE, "--layers", "conv1_1", "--out", "other", cwd=place)

    def codes_kept() -> list[str]:
        rows = json.loads(cnncodes("cache", "size", "--json", cwd=place).stdout)
        return [row["name"] for row in rows if row["images"] is not None]

    assert len(codes_kept()) == 3
    assert json.loads(cnncodes("cache", "gc", "--keep", "codes", "--json", cwd=place).stdout)["freed_bytes"] > 0
    assert len(codes_kept()) == 2
    assert cnncodes("info", "other", cwd=place).returncode == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["extract", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["extract", "photos", *BASE, "--out", "x", "--layers", "pool6"], "no layer 'pool6'; allowed: conv1_1"),
        (["extract", "photos", *BASE, "--out", "x", "--layers", "fc7"], "fc7 of tinyvgg needs images of at least"),
        (["extract", "photos", "--out", "x", "--arch", "vgg17"], "unknown architecture 'vgg17'"),
        (["extract", "photos", "--out", "x", "--weights", "none.pth"], "no weights file at none.pth"),
        (["extract", "photos", *BASE, "--out", "x", "--device", "abacus"], "device: .*'abacus'"),
        (["extract", "photos", *BASE, "--out", "x", "--scales", "a"], "not a list of whole numbers"),
        (["extract", "photos", *BASE, "--out", "x", "--shard", "3/2"], "not i/n"),
        (["extract", "photos", *BASE, "--out", "photos/red/0.png/x"], "not a directory"),
        (["info", "photos"], "photos holds no codes"),
        (["export", "codes", "--layer", "fc8", "--to", "npy"], "holds no codes of 'fc8'"),
        (["predict", "nothing", "a.png"], "nothing does not exist; allowed: a head's folder"),
        (
            ["predict", "photos", "a.png"],
            "photos holds neither a head nor a tuned network; allowed: .*head.safetensors",
        ),
        (["extract", "--train", "no.h5", "--out", "codes"], "no.h5: no such file; allowed: HDF5 files"),
        (["predict", "codes/heads/conv5_2-avg-svm", "photos/red/broken.jpg"], "cannot be read"),
        (["compare", "codes", "--heads", "tree"], "'tree'"),
        (["cache", "gc", "--keep", "photos"], "photos holds no codes"),
    ],
)
def test_mistakes_are_one_clear_line(place: Path, args: list[str], said: str) -> None:
    import re

    if args[0] == "predict" and args[1].startswith("codes") and not (place / args[1]).exists():
        cnncodes("compare", "codes", "--heads", "svm", "--layers", "conv5_2", cwd=place)
    assert re.search(said, error_of(cnncodes(*args, cwd=place)))
    assert not (place / "x").exists(), "something half-written"


def test_help_answers_at_once(place: Path) -> None:
    """A second on an idle machine; processor time here, so that a busy one doesn't fail it."""
    started = os.times()
    for _ in range(3):
        command = [sys.executable, "-m", "pipeline.cli", "extract", "--help"]
        subprocess.run(command, capture_output=True, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    ended = os.times()
    spent_s = ended.children_user + ended.children_system - started.children_user - started.children_system
    assert spent_s / 3 < 2, f"{spent_s / 3:.2f} s"


def test_two_shares_then_the_whole_compute_each_image_once(place: Path, tmp_path: Path) -> None:
    args = ("extract", str(place / "photos"), *BASE, "--layers", "conv3_1", "--out", "shared")
    for share in ("1/2", "2/2"):
        done = cnncodes(*args, "--shard", share, cwd=tmp_path)
        assert f"share {share} is in the store" in done.stdout
        assert not (tmp_path / "shared/codes").exists()
    done = cnncodes(*args, cwd=tmp_path)
    assert "all of them computed before" in done.stderr
    assert (tmp_path / "shared/codes/conv3_1-avg/codes.json").exists()


def test_ctrl_c_is_one_word_and_130(tmp_path: Path) -> None:
    code = (
        "import sys, pipeline.cli as cli; from pipeline.cli.app import app\n"
        "def stop(): raise KeyboardInterrupt\n"
        "app.command('stop')(stop); sys.argv = ['cnncodes', 'stop']; cli.main()"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "cnncodes: stopped by Ctrl-C"
