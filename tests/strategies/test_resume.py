"""Checkpoints that are kept: what they hold, what they answer, and runs that go on from them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import transfer
from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.config import FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.strategies import kept, saved, tree
from pipeline.strategies.resume import MAY_DIFFER, Run, starts
from pipeline.strategies.run import run_strategy
from pipeline.strategies.training import Training
from tests.strategies import world

SETTINGS: dict[str, Any] = {"precision": "fp32", "optimiser": "adam", "learning_rate": 0.002, "epochs": 6}
SAME = ("predictions.csv", "curves.csv", "groups.json", saved.MODEL, saved.HEAD)


def params(**changes: Any) -> FinetuneParams:
    return world.params(**(SETTINGS | {"keep_every": 2} | changes))


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return world.manifest(tmp_path_factory.mktemp("images"), repeats=2)


@pytest.fixture(scope="module")
def whole(two_splits: Manifest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `scratch` over two splits: checkpoints of epochs 2, 4 and 6."""
    out = tmp_path_factory.mktemp("whole")
    run_strategy("scratch", two_splits, world.weights(), params(repeats=2), out, cache=cache)
    return out


def file_of(out: Path, epoch: int, repeat: int = 0) -> Path:
    return kept.folder_of(out, repeat) / kept.name_of(epoch)


def goes_on(name: str, manifest: Manifest, cache: Path, out: Path, start: Path, **changes: Any) -> dict[str, Any]:
    return run_strategy(name, manifest, world.weights(), params(**changes), out, cache=cache, resume=start)


def test_they_lie_beside_the_results_with_their_accuracies(whole: Path, two_splits: Manifest) -> None:
    assert {p.name for p in kept.folder_of(whole, 1).iterdir()} == {kept.name_of(e) for e in (2, 4, 6)}
    found = kept.listed(whole)
    assert [(one["name"], one["epoch"], one["repeat"]) for one in found] == [
        *((f"epoch-000{e}", e, 0) for e in (2, 4, 6)),
        *((f"repeat-1/epoch-000{e}", e, 1) for e in (2, 4, 6)),
    ]
    curves = saved_curves(whole)
    for one in found:
        row = curves[one["repeat"], one["epoch"]]
        assert (one["val_accuracy"], one["val_loss"]) == (float(row["val_accuracy"]), float(row["val_loss"]))
    # The test accuracy is what the checkpoint's own network says of the files.
    one = kept.find(whole, "epoch-0004")
    rows = two_splits.rows("test", 0)
    shown = saved.read_kept(one).probabilities([two_splits.file(row) for row in rows])
    assert found[1]["test_accuracy"] == np.mean(shown.argmax(axis=1) == two_splits.targets[rows])


def saved_curves(out: Path) -> dict[tuple[int, int], dict[str, str]]:
    lines = (out / "curves.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return {(int(row["repeat"]), int(row["epoch"])): row for row in rows}


@pytest.mark.parametrize("name", ["finetune", "cnn"])
def test_the_best_epochs_network_is_the_result(name: str, manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    record = run_strategy(
        name, manifest, world.weights(), params(epochs=2, keep_every=1, head="vgg"), tmp_path, cache=cache
    )
    best = record["repeats"][0]["chosen"]["epoch"]
    own, result = saved.read_kept(kept.find(tmp_path, f"epoch-{best:04d}")), saved.read(tmp_path)
    assert world.same(own.model.state_dict(), result.model.state_dict())
    assert (own.classes, own.view, own.loss) == (result.classes, result.view, result.loss)


def test_a_run_that_goes_on_ends_as_the_undisturbed_one(
    whole: Path, two_splits: Manifest, cache: Path, tmp_path: Path
) -> None:
    record = goes_on("scratch", two_splits, cache, tmp_path, file_of(whole, 4), repeats=2)
    for name in SAME:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    assert [(one["repeat"], one["epoch"]) for one in record["went_on_from"]] == [(0, 4), (1, 4)]
    # The last one is the same network, and says that it went on.
    assert [p.name for p in sorted(tmp_path.glob("kept-checkpoints/*/*"))] == [kept.name_of(6)] * 2
    a, b = (kept.Kept.open(file_of(out, 6)) for out in (whole, tmp_path))
    assert world.same(a.model(), b.model())
    assert b.about["went_on_from"] == [a.about["key"]]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("frozen", {}),
        ("gradual", {"accumulate": 2}),
        ("cnn", {"optimiser": "sgd"}),
        ("frozen", {"optimiser": "lbfgs", "clip": 0.0, "l1": 0.0}),
        ("frozen_augmented", {"views": 2, "head": "vgg"}),
    ],
)
def test_so_with_any_strategy_and_optimiser(
    name: str, changes: dict[str, Any], manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    changes = {"epochs": 3, "keep_every": 1} | changes
    run_strategy(name, manifest, world.weights(), params(**changes), tmp_path / "whole", cache=cache)
    goes_on(name, manifest, cache, tmp_path / "on", file_of(tmp_path / "whole", 1), **changes)
    for file in SAME:
        assert (tmp_path / "on" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_the_best_epoch_before_it_stays_the_best(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    """At a rate that spoils what was learned."""
    run_strategy("cnn", manifest, world.weights(), params(epochs=4, keep_every=1), tmp_path / "a", cache=cache)
    start = kept.find(tmp_path / "a", "epoch-0004")
    state, best = start.training()
    state["callbacks"]["cnncodes"] |= {"best_epoch": 3, "best_value": 1.0}
    best = {name: torch.full_like(t, 0.25) for name, t in best.items()}
    content = {"training": state, "trained": list(state.pop("state_dict")), "best": best, "model": start.model()}
    tree.write(start.path, content, about=dict(start.about) | {"best_epoch": 3})
    record = goes_on("cnn", manifest, cache, tmp_path / "b", start.path, epochs=5, keep_every=0)
    assert record["repeats"][0]["chosen"] == {"epoch": 3}
    found: dict[str, Tensor] = saved.read(tmp_path / "b").model.state_dict()
    assert all(torch.equal(found[name.removeprefix(kept.MODEL)], t) for name, t in best.items())


def test_more_epochs_and_another_rate_are_another_run(
    whole: Path, two_splits: Manifest, cache: Path, tmp_path: Path
) -> None:
    changes = {"epochs": 8, "learning_rate": 0.004, "schedule": world.PARAMS["schedule"] | {"kind": "constant"}}
    goes_on("scratch", two_splits, cache, tmp_path, file_of(whole, 4), **changes)
    before, after = saved_curves(whole), saved_curves(tmp_path)
    assert [epoch for _, epoch in after] == list(range(1, 9))
    rate = next(name for name in after[0, 1] if name.startswith("rate:"))
    assert [after[0, e] for e in range(1, 5)] == [before[0, e] for e in range(1, 5)]
    assert float(after[0, 5][rate]) == 0.004
    assert [p.name for p in kept.files(kept.folder_of(tmp_path, 0))] == [kept.name_of(6), kept.name_of(8)]


def test_where_patience_ended_a_run_more_of_it_goes_on(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    slow = {"learning_rate": 1e-9, "keep_every": 1, "select": "accuracy"}
    a = run_strategy("fc", manifest, world.weights(), params(**slow, patience=2), tmp_path / "a", cache=cache)
    assert a["mean"]["epochs"] == 3
    b = goes_on("fc", manifest, cache, tmp_path / "b", file_of(tmp_path / "a", 3), **slow, patience=4)
    assert b["mean"]["epochs"] == 5


def test_killed_on_its_way_it_goes_on_from_where_it_was(
    whole: Path, two_splits: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = Training.training_step, []

    def killed(self: Training, batch: Any, index: int) -> Tensor:
        seen.append(self.current_epoch)
        if self.current_epoch == 5 and len(set(seen)) == 2:
            raise ConnectionAbortedError("killed")
        return step(self, batch, index)

    monkeypatch.setattr(Training, "training_step", killed)
    with pytest.raises(ConnectionAbortedError):
        goes_on("scratch", two_splits, cache, tmp_path, file_of(whole, 4))
    assert set(seen) == {4, 5}
    seen.clear()
    goes_on("scratch", two_splits, cache, tmp_path, file_of(whole, 4))
    assert set(seen) == {5}
    assert (tmp_path / saved.MODEL).read_bytes() == (whole / saved.MODEL).read_bytes()


def test_a_killed_run_keeps_its_checkpoints_where_dvc_removed_them(
    manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Training.training_step

    def killed(self: Training, batch: Any, index: int) -> Tensor:
        if self.current_epoch == 3:
            raise ConnectionAbortedError("killed")
        return step(self, batch, index)

    monkeypatch.setattr(Training, "training_step", killed)
    with pytest.raises(ConnectionAbortedError):
        run_strategy("fc", manifest, world.weights(), params(), tmp_path, cache=cache)
    assert [one["test_accuracy"] for one in kept.listed(tmp_path)] == [None]
    assert saved.read_kept(kept.find(tmp_path, "epoch-0002")).classes == world.CLASSES
    file_of(tmp_path, 2).unlink()
    monkeypatch.setattr(Training, "training_step", step)
    run_strategy("fc", manifest, world.weights(), params(), tmp_path, cache=cache)
    assert [one["epoch"] for one in kept.listed(tmp_path)] == [2, 4, 6]
    assert all(one["test_accuracy"] is not None for one in kept.listed(tmp_path))


def test_what_is_of_another_run_goes(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    """In one folder: a run that goes on keeps what came before it, one that begins again nothing."""

    def epochs() -> list[int]:
        return [one["epoch"] for one in kept.listed(tmp_path)]

    run_strategy("fc", manifest, world.weights(), params(), tmp_path, cache=cache)
    goes_on("fc", manifest, cache, tmp_path, file_of(tmp_path, 4), epochs=7, keep_every=1)
    assert epochs() == [2, 4, 5, 6, 7]
    goes_on("fc", manifest, cache, tmp_path, file_of(tmp_path, 5), epochs=6, learning_rate=0.1, keep_every=6)
    assert epochs() == [2, 4, 5, 6]
    run_strategy("fc", manifest, world.weights(), params(epochs=2), tmp_path, cache=cache)
    assert epochs() == [2]
    assert len(kept.read_tests(tmp_path)) == 1


def refusal(path: Path, run: Run) -> str:
    with pytest.raises(UserError) as e:
        starts(path, run)
    return str(e.value)


def test_what_must_agree_is_said_all_at_once(whole: Path, two_splits: Manifest, tmp_path: Path) -> None:
    path, own = file_of(whole, 4), params()
    other = params(
        optimiser="sgd",
        batch_size=4,
        strategies={"scratch": {"kind": "scratch", "augment": ["flip"]}},
        run=["scratch"],
    )
    text = refusal(path, Run("scratch", two_splits, world.weights(classes=5), other))
    for part in (
        "optimiser: adam there, sgd here",
        "batch_size: 8 there, 4 here",
        "augment: ['flip', 'mixup', 'cutmix'] there, ['flip'] here",
        "weights: test there",
        f"these may differ: {', '.join(MAY_DIFFER)}",
    ):
        assert part in text
    assert "strategy: scratch there, fc here" in refusal(path, Run("fc", two_splits, world.weights(), own))
    assert "arch: tinyvgg there, vgg11 here" in refusal(path, Run("scratch", two_splits, world.weights("vgg11"), own))
    assert "images: 42 there, 45 here" in refusal(
        path, Run("scratch", world.manifest(tmp_path, n=45), world.weights(), own)
    )
    labels = np.where(two_splits.labels == "red", "ruby", two_splits.labels)
    renamed = dataclasses.replace(two_splits, labels=labels)
    text = refusal(path, Run("scratch", renamed, world.weights(), own))
    assert "classes: blue, green, red there, blue, green, ruby here" in text and "other labels of the images" in text
    moved = dataclasses.replace(two_splits, splits=two_splits.splits[::-1])
    assert "other split of the images" in refusal(path, Run("scratch", moved, world.weights(), own))
    assert "is of epoch 4, and finetune.loop.epochs is 3; allowed: 4 or more" in refusal(
        path, Run("scratch", two_splits, world.weights(), params(epochs=3))
    )
    assert "is of repeat 1; allowed: repeats of 2 or more" in refusal(
        file_of(whole, 4, 1), Run("scratch", two_splits, world.weights(), own)
    )


def test_keys_that_may_differ_are_keys() -> None:
    assert set(MAY_DIFFER) < FinetuneParams.model_fields.keys()


def test_names_are_those_that_are_there(whole: Path) -> None:
    assert kept.find(whole, "repeat-1/epoch-0002.safetensors").repeat == 1
    for name in ("epoch-0003", "../x", "repeat-0", ""):
        with pytest.raises(UserError, match="allowed: epoch-0002, epoch-0004, epoch-0006, repeat-1/epoch-0002"):
            kept.find(whole, name)


def rewritten(whole: Path, folder: Path, *, about: dict[str, Any] | None = None, **content: Any) -> Path:
    """A checkpoint with its digest right and other things in it."""
    one = kept.Kept.open(file_of(whole, 4))
    path = file_of(folder, 4)
    path.parent.mkdir(parents=True)
    tree.write(path, tree.read(one.path) | content, about=dict(one.about) | (about or {}))
    return path


def test_what_it_holds_is_checked(whole: Path, two_splits: Manifest, cache: Path, tmp_path: Path) -> None:
    model = kept.find(whole, "epoch-0004").model()
    name = "trunk.conv1_1.weight" if "trunk.conv1_1.weight" in model else next(iter(model))
    bad: dict[str, tuple[str, dict[str, Any]]] = {
        "nan": ("not finite, in " + name, {"model": model | {name: model[name] * torch.nan}}),
        "shape": ("don't fit", {"model": model | {name: model[name][:1]}}),
        "missing": ("names trained layers|don't fit", {"model": {n: t for n, t in model.items() if n != name}}),
        "more": ("don't fit", {"model": model | {"more": torch.zeros(1)}}),
        "nothing": ("no training to go on with", {"training": {}}),
        "state": ("is not a checkpoint of a strategy", {"model": [1]}),
        "repeat": ("doesn't say its repeat", {"about": {"repeat": "0"}}),
    }
    for case, (said, changes) in bad.items():
        path = rewritten(whole, tmp_path / case, **changes)
        with pytest.raises(UserError, match=said):
            goes_on("scratch", two_splits, cache, tmp_path / f"{case}-out", path)
    for case in ("nan", "shape", "missing", "more", "state", "repeat"):
        with pytest.raises(UserError):
            saved.read_kept(kept.find(tmp_path / case, "epoch-0004"))
    path = rewritten(whole, tmp_path / "network", about={"model": {"kind": "vgg"}})
    with pytest.raises(UserError, match="doesn't say what network it is of"):
        saved.read_kept(kept.Kept.open(path))


def test_a_folder_of_strategies_lists_them_all(whole: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "finetune" / name).mkdir(parents=True)
        (tmp_path / "finetune" / name / kept.FOLDER).symlink_to(whole / kept.FOLDER)
    assert len(transfer.checkpoints(tmp_path)) == len(transfer.checkpoints(tmp_path / "finetune")) == 12
    assert len(transfer.checkpoints(tmp_path / "finetune/a")) == 6
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", "has no strategies in it"), ("missing", "is not a folder")):
        with pytest.raises(UserError, match=said):
            transfer.checkpoints(tmp_path / folder)


def test_what_is_typed_goes_before_a_strategys_own_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    own = {"epochs": 9, "learning_rate": 0.5, "schedule": {"kind": "step"}}
    strategies = {"mine": {"kind": "cnn", **own}, "other": {"kind": "cnn"}}
    file.write_text(json.dumps({"preset": "base", "finetune": {"strategies": strategies, "run": ["mine", "other"]}}))
    asked = transfer.params_of({"epochs": 4, "schedule": {"kind": "cosine"}}, file)
    assert [asked.of(name).epochs for name in asked.run] == [4, 4]
    assert [asked.of(name).schedule.kind for name in asked.run] == ["cosine", "cosine"]
    assert asked.of("mine").learning_rate == 0.5
    # A strategy that is typed too says what it means.
    both = transfer.params_of({"epochs": 4, "strategies": {"mine": {"epochs": 2}}}, file)
    assert [both.of(name).epochs for name in both.run] == [2, 4]
    for strategies in (3, {"mine": 3}):
        file.write_text(json.dumps({"preset": "base", "finetune": {"strategies": strategies}}))
        with pytest.raises(UserError, match="strategies"):
            transfer.params_of({"epochs": 4}, file)


def test_accuracies_that_are_broken_are_refused(whole: Path, tmp_path: Path) -> None:
    json_files.write(tmp_path / kept.FOLDER / kept.TESTS, {"version": 1, "accuracy": {"x": "high"}})
    with pytest.raises(UserError, match="not a file of test accuracies"):
        kept.listed(tmp_path)


def test_a_strategy_with_epochs_of_its_own_goes_on_with_more(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    def own(epochs: int) -> FinetuneParams:
        return params(keep_every=1, strategies={"mine": {"kind": "cnn", "epochs": epochs}}, run=["mine"])

    run_strategy("mine", manifest, world.weights(), own(2), tmp_path / "a", cache=cache)
    start = kept.find(tmp_path / "a", "epoch-0002")
    run_strategy("mine", manifest, world.weights(), own(3), tmp_path / "b", cache=cache, resume=start.path)
    assert max(epoch for _, epoch in saved_curves(tmp_path / "b")) == 3
    # Without a file the shared keys are the checkpoint's, and an option changes them.
    assert transfer.params_of({"epochs": 4}, start=start).of("mine").epochs == 4
