"""The curves that are written while a run trains: what is in them, after a kill too, and what dvclive leaves alone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pipeline.data.manifest import Manifest
from pipeline.strategies import live, outputs
from pipeline.strategies.run import run_strategy
from pipeline.strategies.training import Training
from tests.strategies import world
from tests.test_imports import ROOT

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # files of numbers, whatever these are


def written(out: Path, repeat: int) -> dict[str, list[tuple[int, float]]]:
    """File below plots/metrics/ without its ending -> (step, value) of each line."""
    base = live.folder(out, repeat) / "plots" / "metrics"
    found = {}
    for path in base.rglob("*.tsv"):
        header, *rows = list(csv.reader(path.open(), delimiter="\t"))
        assert header == ["step", path.stem]
        found[path.relative_to(base).with_suffix("").as_posix()] = [(int(s), float(v)) for s, v in rows]
    return found


def expected(out: Path, repeat: int) -> dict[str, list[tuple[int, float]]]:
    """The same of curves.csv."""
    curve = outputs.read_curves(out / "curves.csv")[repeat]
    found = {name: [(r["epoch"], r[column]) for r in curve] for column, name in live.COLUMNS.items()}
    encoded = {group: f"rate/{group.replace('*', '%2A')}" for group in curve[0]["rates"]}
    return found | {name: [(r["epoch"], r["rates"][group]) for r in curve] for group, name in encoded.items()}


def test_the_files_hold_the_numbers_of_the_curves(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    stale = live.folder(tmp_path, 7) / "plots" / "metrics" / "rate" / "old.tsv"
    stale.parent.mkdir(parents=True)
    stale.write_text("step\told\n1\t1\n")
    run_strategy("scratch", manifest, world.weights(), world.params(repeats=2), tmp_path, cache=cache)

    for repeat in (0, 1):
        assert written(tmp_path, repeat) == expected(tmp_path, repeat)
        assert len(written(tmp_path, repeat)["val/loss"]) == 2
    assert {"rate/%2A", "rate/%2A (biases and norms)"} < set(written(tmp_path, 0))
    # Nothing else than lines of values: no summary, no dvc.yaml; and nothing of a run before.
    assert {p.suffix for p in (tmp_path / live.FOLDER).rglob("*") if p.is_file()} == {".tsv"}
    assert sorted(p.name for p in (tmp_path / live.FOLDER).iterdir()) == ["repeat-0", "repeat-1"]


def test_a_killed_run_shows_whole_epochs_and_goes_on_with_all_of_them(
    manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, step = world.params(epochs=3, seed=11), Training.training_step

    def killed(self: Training, batch: Any, index: int) -> Tensor:
        if (self.current_epoch, index) == (2, 1):
            raise ConnectionAbortedError("killed")
        return step(self, batch, index)

    monkeypatch.setattr(Training, "training_step", killed)
    with pytest.raises(ConnectionAbortedError):
        run_strategy("fc", manifest, world.weights(), params, tmp_path, cache=cache)
    monkeypatch.setattr(Training, "training_step", step)
    assert [s for s, _ in written(tmp_path, 0)["train/accuracy"]] == [1, 2]

    # DVC removes a stage's outs before it runs; a rerun without DVC finds them.
    (live.folder(tmp_path, 0) / "plots" / "metrics" / "train" / "loss.tsv").unlink()
    run_strategy("fc", manifest, world.weights(), params, tmp_path, cache=cache)
    assert written(tmp_path, 0) == expected(tmp_path, 0)
    assert [s for s, _ in written(tmp_path, 0)["train/loss"]] == [1, 2, 3]


def test_a_run_that_had_ended_shows_its_curve_again(
    manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its results were written: the curve comes from the checkpoint, without a step."""
    params = world.params(epochs=2, seed=12)

    def killed(*_: object) -> None:
        raise ConnectionAbortedError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_curves", killed)
        with pytest.raises(ConnectionAbortedError):
            run_strategy("fc", manifest, world.weights(), params, tmp_path, cache=cache)
    monkeypatch.setattr(Training, "training_step", killed)
    run_strategy("fc", manifest, world.weights(), params, tmp_path, cache=cache)
    assert written(tmp_path, 0) == expected(tmp_path, 0)


def test_what_trains_nothing_has_an_empty_folder(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    weights = world.weights(classes=3, names=world.CLASSES)
    run_strategy("direct", manifest, weights, world.params(scale=64, size=64), tmp_path, cache=cache)
    assert list((tmp_path / live.FOLDER).iterdir()) == []


FORBIDDEN = """
import os, sys
from types import SimpleNamespace
from pathlib import Path
from pipeline.strategies.live import LiveCurve
from pipeline.strategies.training import Training
def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork")):
        raise PermissionError(event)
    if event == "open" and not isinstance(args[0], int) and any(p in os.fsdecode(args[0]) for p in (".git", ".dvc")):
        raise PermissionError(f"open {args[0]}")
sys.addaudithook(watch)
row = {"train_loss": 0.5, "train_accuracy": None, "val_loss": float("nan"), "val_accuracy": 1.0, "rates": {"../x": 1}}
for folder in sys.argv[1:]:
    os.chdir(folder)
    training, shown = Training.__new__(Training), LiveCurve(Path("live"))
    trainer = SimpleNamespace(is_global_zero=True)
    training.curve = [{"epoch": 1, **row}]
    shown.on_fit_start(trainer, training)
    training.curve.append({"epoch": 2, **row})
    shown.on_train_epoch_start(trainer, training)
    shown.on_train_end(trainer, training)
"""


def git(folder: Path, *args: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.run(["git", *who, *args], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_dvclive_touches_neither_git_nor_dvc_nor_the_network(tmp_path: Path) -> None:
    """In a git repository without DVC, and in one with it, both told to send to DVC Studio."""
    before = {}
    for folder in (tmp_path / "git", tmp_path / "dvc"):
        folder.mkdir()
        git(folder, "init", "-q")
        (folder / "dvc.yaml").write_text("stages: {}\n")
        if folder.name == "dvc":
            (folder / ".dvc" / "tmp").mkdir(parents=True)
            (folder / ".dvc" / "config").write_text("[studio]\n    token = secret\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "first")
        before[folder] = _tree(folder), git(folder, "for-each-ref")
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, *map(str, before)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "DVC_STUDIO_TOKEN": "secret", "DVC_EXP_NAME": "mine"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for folder, found in before.items():
        metrics = folder / "live" / "plots" / "metrics"
        made = {p.relative_to(metrics).as_posix() for p in (folder / "live").rglob("*") if p.is_file()}
        assert made == {f"{n}.tsv" for n in ("train/loss", "val/loss", "val/accuracy", "rate/..%2Fx")}
        assert (metrics / "val" / "loss.tsv").read_text().split() == ["step", "loss", "1", "nan", "2", "nan"]
        assert (_tree(folder), git(folder, "for-each-ref")) == found


def _tree(folder: Path) -> dict[str, bytes]:
    """Every file but those of live/."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "live" not in p.relative_to(folder).parts
    }
