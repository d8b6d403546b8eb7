"""What every command that lists images has in common: what is left out, how many may be broken, how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from pipeline.cli import listing
from pipeline.cli.app import app
from pipeline.data.build import kept_failures
from pipeline.data.manifest import Failure, read_failures
from pipeline.data.room import Room
from pipeline.data.verify import verify
from pipeline.strategies import lr_plot
from pipeline.strategies.lr_find import Sweep
from pipeline.strategies.sanity import plot
from tests.cli.test_codes import BASE
from tests.cli.test_search import run
from tests.pictures import draw_classes

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both

LISTS = (
    ["extract"],
    ["index", "build"],
    ["index", "add"],
    ["finetune"],
    ["lr-find"],
    ["sanity"],
    ["advise"],
    ["weights", "reference"],
)
NETWORK = ["--arch", "tinyvgg", "--weights", "random:0"]
TRAIN = [*NETWORK, "--size", "32", "--batch-size", "8", "--device", "cpu", "--strategy", "frozen"]


@pytest.mark.parametrize("names", LISTS, ids=" ".join)
def test_each_has_the_options(names: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--leave-out", "--max-failed-share", "--follow-links", "--json"} <= options


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: three classes with thumbnails of a NAS, drafts and a README beside them."""
    root = draw_classes(tmp_path / "photos", per_class=12)
    for path in ("red/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "drafts/0.png"):
        (root / path).parent.mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(root / path)
    (root / "README.md").write_text("About these")
    monkeypatch.chdir(root)
    return root


def answer(args: list[str], capsys: pytest.CaptureFixture[str], *, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*args, "--leave-out", "drafts", "--json"]) in codes
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def reasons(found: dict[str, Any]) -> dict[str, str]:
    assert all(one.keys() == {"path", "reason"} for one in found["left_out"])
    return {one["path"]: one["reason"] for one in found["left_out"]}


LEFT_OUT = {"red/@eaDir": "made by a Synology", "drafts": "matches 'drafts' of dataset.leave_out"}


def test_extract_and_index_inside_the_images_again_and_again(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract = ["extract", ".", "--out", "codes", *BASE, "--layers", "pool1-avg"]
    first = answer(extract, capsys)
    assert first["pool1-avg"]["images"] == 36 and reasons(first) == LEFT_OUT
    assert run(["index", ".", "--out", "my.index", *BASE, "--leave-out", "drafts"]) == 0
    assert run(["search", "my.index", "red/1.png", "--montage", "found.webp"]) == 0
    again = answer(extract, capsys)
    assert again["pool1-avg"] == first["pool1-avg"]
    ours = {
        "codes": "made by cnncodes: results",
        "my.index": "made by cnncodes: an index",
        "found.webp": "a picture that cnncodes drew",
    }
    assert reasons(again) == LEFT_OUT | ours
    added = answer(["index", "add", "my.index", "."], capsys)
    assert (added["known"], added["added"]) == (36, 0) and reasons(added) == LEFT_OUT | ours


def test_an_index_remembers_what_it_leaves_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = answer(["index", "build", ".", "--out", "../my.index", *BASE], capsys)
    assert built["images"] == 36 and reasons(built) == LEFT_OUT
    assert run(["index", "add", "../my.index", ".", "--json"]) == 0
    added = json.loads(capsys.readouterr().out)
    assert (added["known"], added["added"]) == (36, 0) and reasons(added) == LEFT_OUT


def test_training_and_advice(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(["lr-find", ".", *TRAIN, "--steps", "8"], capsys)
    assert reasons(found) == LEFT_OUT and len(found["rates"]) <= 8
    tuned = answer(["finetune", ".", "--out", "../tuned", *TRAIN, "--epochs", "1", "--repeats", "1"], capsys)
    assert reasons(tuned) == LEFT_OUT and tuned.keys() == {"frozen", "left_out", "page"}
    assert reasons(answer(["lr-find", "../tuned", *TRAIN, "--steps", "8"], capsys)) == LEFT_OUT
    assert reasons(answer(["advise", ".", *BASE, "--layers", "pool4-avg,pool5-avg"], capsys)) == LEFT_OUT


@pytest.mark.parametrize(
    "command",
    [
        ["extract", ".", "--out", "../codes", *BASE, "--layers", "pool1-avg"],
        ["index", "build", ".", "--out", "../my.index", *BASE],
        ["advise", ".", *BASE, "--layers", "pool5-avg"],
        ["lr-find", ".", *TRAIN],
        ["sanity", ".", *TRAIN],
        ["finetune", ".", "--out", "../tuned", *TRAIN],
    ],
    ids=lambda c: c[0],
)
def test_too_many_broken_images_stop_each_with_the_list_at_hand(
    command: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        (photos / f"red/{i}.png").write_bytes(b"")
    assert run(command) == 2
    words = capsys.readouterr().err
    assert "--max-failed-share" in words and "Traceback" not in words
    own = command[command.index("--out") + 1] if "--out" in command else None
    folder = Path(own, "dataset") if own and command[0] != "index" else kept_failures(".")
    assert f"{folder}/failures.csv" in words
    assert {f.path: f.kind for f in read_failures(folder) if f.path != "README.md"} == {
        **{f"red/{i}.png": "broken" for i in range(4)},
        "red/@eaDir": "left_out",
    }


def test_a_higher_share_lets_them_pass(photos: Path) -> None:
    for i in range(4):
        (photos / f"red/{i}.png").write_bytes(b"")
    extract = ["extract", ".", "--out", "../codes", *BASE, "--layers", "pool1-avg"]
    assert run([*extract, "--max-failed-share", "0.05"]) == 2
    assert run([*extract, "--max-failed-share", "0.2"]) == 0
    assert run([*extract, "--max-failed-share", "2"]) == 2


def test_nothing_is_left_out_of_what_was_not_listed(tmp_path: Path) -> None:
    assert listing.left_out(tmp_path) == [] and listing.made_in(tmp_path) is None


@pytest.mark.parametrize("name", ["rates.png", "rates.svg", "steps.png", "steps.svg"])
def test_plots_that_were_drawn_here_are_no_photographs(name: str, tmp_path: Path) -> None:
    if name.startswith("rates"):
        lr_plot.draw(Sweep((1e-3, 1e-2), (2.0, 1.0), 1e-2), tmp_path / name, title="Rates")
    else:
        plot.draw([], tmp_path / name, title="Steps")
    (found,) = verify(tmp_path, [name], max_pixels=10_000_000, room=Room())
    assert found == Failure(name, "a picture that cnncodes drew", "left_out")
