"""`cnncodes index | search | duplicates` as a user types them, in one process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.search import save
from tests.codes.conftest import draw

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both

BUILD = ["--arch", "tinyvgg", "--weights", "random:0", "--size", "64"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and, made from it by the command itself, my.index."""
    root = tmp_path_factory.mktemp("home")
    for i in range(6):
        draw(root / "photos" / ("犬" if i % 2 else "çat") / f"{i}.png", i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(root / "cache"))
        assert run(["index", str(root / "photos"), "--out", str(root / "my.index"), *BUILD]) == 0
    return root


def run(args: list[str]) -> int:
    """The exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cnncodes", *args])
        try:
            main()
        except SystemExit as e:
            return int(e.code or 0)
        finally:
            logging.getLogger("faiss.loader").setLevel(logging.NOTSET)
    return 0


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)


def answer(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run([*args, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_search_by_file_then_by_id(capsys: pytest.CaptureFixture[str]) -> None:
    by_file = answer(["search", "my.index", "photos/çat/2.png", "-k", "3"], capsys)
    first, *others = by_file["neighbours"]  # type: ignore[misc]
    assert (first["rank"], first["distance"], first["label"], Path(first["path"]).name) == (1, 0, "çat", "2.png")
    by_id = answer(["search", "my.index", first["id"], "-k", "2"], capsys)
    assert [n["id"] for n in by_id["neighbours"]] == [n["id"] for n in others]  # type: ignore[attr-defined]
    assert run(["search", "my.index", "photos/çat/2.png", "-k", "3"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].startswith("photos/çat/2.png: topk of pool5-flatten, distance: differing bits of")
    assert text.splitlines()[2].split()[:4] == ["1", "0", "çat", first["id"]]


def test_k_is_at_most_k(capsys: pytest.CaptureFixture[str]) -> None:
    for more, count in ([], 6), (["--label", "犬"], 3):
        found = answer(["search", "my.index", "photos/çat/2.png", "-k", "50", *more], capsys)
        assert len(found["neighbours"]) == count  # type: ignore[arg-type]


def test_layers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", "photos", "--out", "two.index", *BUILD, "--layer", "conv5_3, conv2_2-max"]) == 0
    assert "conv5_3-avg,conv2_2-max" in capsys.readouterr().out
    found = answer(["search", "two.index", "photos/çat/2.png", "--layer", "conv2_2", "-k", "3"], capsys)
    assert (found["method"], found["layer"]) == ("cosine", "conv2_2-max")
    assert run(["search", "two.index", "photos/çat/2.png", "--layer", "conv1_1"]) == 2
    assert "this index has no layer 'conv1_1'; allowed: pool5-flatten, conv5_3-avg" in capsys.readouterr().err


def test_nothing_within_the_radius(capsys: pytest.CaptureFixture[str]) -> None:
    image = str(draw(Path("new.png"), 77))
    nearest = answer(["search", "my.index", image, "-k", "1", "--method", "cosine"], capsys)["neighbours"]
    assert run(["search", "my.index", image, "--radius", "0.0000001", "--method", "cosine"]) == 0
    assert f"the nearest is at {nearest[0]['distance']:.3f}" in capsys.readouterr().out  # type: ignore[index]


def test_random_and_montage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(["search", "my.index", "--random", "-k", "5", "--montage", "m.webp"], capsys)
    ids = [n["id"] for n in found["neighbours"]]  # type: ignore[attr-defined]
    assert len(ids) == 5 and found["id"] not in ids
    with Image.open(home / "m.webp") as image:
        assert image.format == "WEBP" and image.width > image.height > 300


def test_change_and_look(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("more/x/30.png"), 30)
    assert answer(["index", "add", "my.index", "more"], capsys)["added"] == 1
    assert answer(["index", "info", "my.index"], capsys)["images"] == 7
    removed = answer(["index", "remove", "my.index", "more/x/30.png"], capsys)["removed"]
    assert len(removed) == 1  # type: ignore[arg-type]
    assert answer(["index", "verify", "my.index", "--files"], capsys) == {"whole": True, "problems": []}
    assert run(["index", "info", "my.index"]) == 0
    text = capsys.readouterr().out
    for word in (
        "6 images",
        "short code: lsh",
        "too few for itq",
        "crop: 64",
        "two-stage",
        "background: [255, 255, 255]",
    ):
        assert word in text


def test_a_query_that_needs_too_much_memory(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (1500, 1500)).save(home / "large.png")
    assert run(["search", "my.index", "large.png", "--memory-mb", "16"]) == 2
    assert "large.png (1500 x 1500 pixels: needs" in capsys.readouterr().err
    assert run(["search", "my.index", "large.png", "--memory-mb", "64"]) == 0


def test_adding_lists_what_needs_too_much_memory(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(home / "scans/small.png", 100)
    Image.new("L", (1500, 1500)).save(home / "scans/large.png")
    # Neither is kept by the index, whose params name no memory: an index from before there was a bound takes one too.
    assert "memory_mb" not in save.info(home / "my.index")["made_by"]["params"]
    added = answer(["index", "add", "my.index", "scans", "--memory-mb", "20"], capsys)
    assert (added["added"], added["images"]) == (1, 7)
    added = answer(["index", "add", "my.index", "scans"], capsys)
    assert (added["added"], added["images"]) == (1, 8)
    assert run(["index", "remove", "my.index", "scans/small.png", "scans/large.png"]) == 0


def test_duplicates(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["duplicates", "my.index", "--radius", "0", "--method", "lsh"], capsys)["radius"] == 0
    found = answer(["duplicates", "my.index", "--radius", "64", "--method", "lsh"], capsys)
    assert [len(g) for g in found["groups"]] == [6]  # type: ignore[attr-defined]
    assert found["images"] == 6


def test_a_hash_that_is_left_out_of_an_index_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.hashing.sigmoid.THRESHOLD", 1e4)  # which no value passes
    assert run(["index", "photos", "--out", str(tmp_path / "my.index"), *BUILD]) == 0
    assert run(["index", "info", str(tmp_path / "my.index")]) == 0
    why = "sigmoid of pool5-flatten gives all 6 training images the same bits (none set), which find nothing"
    assert capsys.readouterr().out.count(f"left out: {why}\n") == 2
    assert answer(["index", "info", str(tmp_path / "my.index")], capsys)["left_out"] == {"sigmoid": why}


def test_a_large_group_of_duplicates_is_shown_in_part(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.search._LISTED", 4)
    capsys.readouterr()
    assert run(["duplicates", "my.index", "--radius", "64", "--method", "lsh"]) == 0
    text = capsys.readouterr().out
    assert text.count("photos") == 4
    assert "6 images\n" in text and "... and 2 more, which --json lists" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["search", "my.index", "nowhere.jpg"], "'nowhere.jpg' is not a file, and no id in my.index"),
        (["search", "my.index", "x" * 5000], "is not a file, and no id in my.index"),
        (["search", "my.index", "photos"], "photos"),
        (["search", "my.index"], "a search needs one query"),
        (["search", "my.index", "photos/çat/2.png", "--random"], "a search needs one query"),
        (["search", "my.index", "photos/çat/2.png", "-k", "0"], "-k: '0'; allowed: at least 1; see"),
        (["search", "README.txt", "x.png"], "README.txt is not an index; allowed: a folder that `cnncodes index` made"),
        (["search", "my.index", "photos/çat/2.png", "--method", "x"], "no method 'x'; allowed: topk, sigmoid"),
        (["search", "photos", "photos/çat/2.png"], "photos is not an index"),
        (["search", "my.index", "broken.jpg"], "broken.jpg"),
        (["search", "my.index", "photos/çat/2.png", "--montage", "m.txt"], "a montage named m.txt"),
        (["index", "photos", "--out", "my.index"], "my.index is there already"),
        (["index", "empty", "--out", "new.index", *BUILD], "empty holds no files"),
        (["index", "remove", "my.index"], "nothing to remove was named"),
        (["duplicates", "my.index", "--radius", "65", "--method", "lsh"], "allowed: 0 to 64"),
    ],
)
def test_bad_input_is_one_sentence(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff")
    Path("empty").mkdir(exist_ok=True)
    before = sorted(str(p) for p in Path("my.index").rglob("*"))
    capsys.readouterr()
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith("cnncodes: error: ")
    assert sorted(str(p) for p in Path("my.index").rglob("*")) == before
    assert not Path("new.index").exists() and not list(Path().glob(".new.index*"))


def test_verify_of_a_damaged_index_ends_with_1(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [weights] = (home / "my.index" / "weights").iterdir()
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-64] + bytes(64))
        assert run(["index", "verify", "my.index"]) == 1
        assert weights.name in capsys.readouterr().out
    finally:
        weights.write_bytes(whole)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from pipeline.cli import main; sys.argv = ['cnncodes', 'index', '--help']\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'faiss', 'h5py', 'matplotlib', 'PIL') if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"}
    )
    assert found.stdout.splitlines()[-1] == "[]"
    assert all(word in found.stdout for word in ("build", "add", "remove", "info", "verify"))
