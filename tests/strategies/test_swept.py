"""A sweep of learning rates that was killed: it goes on where it was, to the bits of an undisturbed one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import stopping
from pipeline.data.manifest import Manifest
from pipeline.nets.weights import Weights
from pipeline.strategies import checkpoints, lr_find, lr_plot, swept, tree
from pipeline.strategies.lr_find import Sweep
from pipeline.strategies.sanity import first
from tests.strategies import world
from tests.strategies.test_sanity import bench_of
from tests.strategies.test_training import made_of

pytestmark = pytest.mark.network

STEPS = 9
# 24 images: batches of 10, 10 and 4, by twos, so that epochs are of two steps and the last has fewer images.
BY_TWOS: dict[str, Any] = {"optimiser": "adam", "batch_size": 10, "accumulate": 2}
ENTRY = {"multiple": 1.0, "weight_decay": 0.1, "l1": 0.001, "from_epoch": 0}
TABLE = [
    ENTRY | {"layers": ["conv*"], "optimiser": "sgd", "multiple": 0.1},
    ENTRY | {"layers": ["classifier"], "optimiser": "adagrad"},
]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "augmented": ("scratch", BY_TWOS),
    "frozen in part": ("finetune", {"optimiser": "adamw"}),
    "norms": ("cnn", {"optimiser": "sgd"}),
    "unfrozen later": ("gradual", {"optimiser": "rmsprop"}),
    "two optimisers": ("it", {"strategies": {"it": {"kind": "finetune", "table": TABLE}}, "run": ["it"]}),
    "L-BFGS": ("frozen", {"optimiser": "lbfgs", "clip": 0.0, "dropout": 0.0}),
}


class Cut(BaseException):
    """As a kill: nothing handles it."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """[steps made, steps allowed]; what is kept is written at once."""
    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)
    counted, step = [0, 10**9], lr_find._step

    def cut(*args: Any) -> float:
        if counted[0] == counted[1]:
            raise Cut
        counted[0] += 1
        return step(*args)

    monkeypatch.setattr(lr_find, "_step", cut)
    yield counted


def find(
    name: str,
    manifest: Manifest,
    cache: Path,
    *,
    low: float = 1e-5,
    plot: Path | None = None,
    weights: Weights | None = None,
    **own: Any,
) -> Sweep:
    bounds: dict[str, Any] = {"low": low, "high": 1e-2, "steps": STEPS, "plot": plot}
    return lr_find.find(name, manifest, weights or world.weights(), world.params(**own), cache=cache, **bounds)


def killed_at(step: int, made: list[int], *args: Any, **own: Any) -> None:
    made[:] = [0, step]
    with pytest.raises(Cut):
        find(*args, **own)
    made[:] = [0, 10**9]


def state_in(cache: Path) -> Path:
    (folder,) = (cache / checkpoints.FOLDER).glob("lr-find-*")
    return folder / swept.FILE


@pytest.mark.parametrize("case", CASES)
def test_a_killed_sweep_goes_on_to_the_same_bits(
    case: str, manifest: Manifest, tmp_path: Path, made: list[int]
) -> None:
    name, own = CASES[case]
    whole = find(name, manifest, tmp_path / "whole", **own)
    assert len(whole.losses) == STEPS
    killed_at(4, made, name, manifest, tmp_path, **own)
    killed_at(3, made, name, manifest, tmp_path, **own)
    assert len(tree.read(state_in(tmp_path))["losses"]) == 7
    assert find(name, manifest, tmp_path, **own) == whole
    assert made[0] == STEPS - 7, "steps that were done are not done again"
    assert not world.left(tmp_path)


def test_what_was_kept_of_another_sweep_is_not_used(manifest: Manifest, tmp_path: Path, made: list[int]) -> None:
    own = world.weights()
    other = Weights.make(own.arch, {n: 2 * t for n, t in own.tensors.items()}, own.preprocessing, {"source": "others"})
    killed_at(5, made, "scratch", manifest, tmp_path)
    expected = find("scratch", manifest, tmp_path / "whole", low=1e-4)
    made[0] = 0
    assert find("scratch", manifest, tmp_path, low=1e-4) == expected
    assert made[0] == STEPS
    changes: list[dict[str, Any]] = [{"weight_decay": 0.1}, {"seed": 4}, {"max_train": 20}, {"weights": other}]
    for change in changes:
        made[0] = 0
        find("scratch", manifest, tmp_path, **change)
        assert made[0] == STEPS, change
    assert len(tree.read(state_in(tmp_path))["losses"]) == 5, "its own is still there"


@pytest.mark.parametrize(
    "change", ["cut", "flipped", "torch", "losses", "shape", "nan", "name", "optimiser", "average"]
)
def test_a_damaged_state_is_not_used(change: str, manifest: Manifest, tmp_path: Path, made: list[int]) -> None:
    killed_at(4, made, "finetune", manifest, tmp_path, **BY_TWOS)
    file = state_in(tmp_path)
    if change in ("cut", "flipped"):
        held = bytearray(file.read_bytes())
        held[-20] ^= 1
        file.write_bytes(held[:-10] if change == "cut" else held)
    else:
        state = tree.read(file)
        name, tensor = next(iter(state["model"].items()))
        others: dict[str, dict[str, Any]] = {
            "torch": {"torch": "1"},
            "losses": {"losses": [1.0] * (STEPS + 1)},
            "shape": {"model": state["model"] | {name: tensor[:1]}},
            "nan": {"model": state["model"] | {name: tensor * float("nan")}},
            "name": {"model": {n: t for n, t in state["model"].items() if n != name}},
            "optimiser": {"optimiser": state["optimiser"] | {"param_groups": []}},
            "average": {"average": "much"},
        }
        tree.write(file, state | others[change])
    whole = find("finetune", manifest, tmp_path / "whole", **BY_TWOS)
    made[0] = 0
    assert find("finetune", manifest, tmp_path, **BY_TWOS) == whole
    assert made[0] == STEPS


def test_it_is_kept_until_the_picture_is_drawn(
    manifest: Manifest, tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*args: Any, **kwargs: Any) -> None:
        raise Cut

    find("scratch", manifest, tmp_path / "whole", plot=tmp_path / "whole.svg")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(lr_plot, "draw", cut)
        find("scratch", manifest, tmp_path, plot=tmp_path / "killed.svg")
    made[:] = [0, 0]
    find("scratch", manifest, tmp_path, plot=tmp_path / "killed.svg")
    assert (tmp_path / "killed.svg").read_bytes() == (tmp_path / "whole.svg").read_bytes()


def test_where_nothing_can_be_written_it_goes_through(
    manifest: Manifest, tmp_path: Path, made: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    whole = find("scratch", manifest, tmp_path / "whole")
    (tmp_path / checkpoints.FOLDER).write_text("no folder")
    assert find("scratch", manifest, tmp_path) == whole
    assert caplog.text.count("can't be kept, and a stop would cost them") == 1


def test_batches_and_model_are_left_as_they_were(manifest: Manifest, tmp_path: Path, made: list[int]) -> None:
    ready, training = made_of("scratch", manifest, tmp_path, **BY_TWOS)
    assert ready.train is not None
    before = [targets.tolist() for _, targets in ready.train]
    for allowed in (3, 10**9):
        made[:] = [0, allowed]
        with contextlib.suppress(Cut):
            lr_find.sweep(training, ready.train, low=1e-5, high=1e-2, steps=STEPS, so_far=swept.SoFar(tmp_path / "own"))
        assert [targets.tolist() for _, targets in ready.train] == before


def test_the_sweep_of_the_sanity_checks_goes_on_too(manifest: Manifest, tmp_path: Path, made: list[int]) -> None:
    whole, killed = (bench_of("scratch", manifest, tmp_path / name) for name in ("whole", "killed"))
    expected = first.find_rate(whole, whole.ready())
    steps, made[:] = made[0], [0, 6]
    with pytest.raises(Cut):
        first.find_rate(killed, killed.ready())
    assert (killed.runs / "sweep" / swept.FILE).is_file(), "where it goes once all steps are done"
    made[:] = [0, 10**9]
    assert first.find_rate(killed, killed.ready()) == expected
    assert made[0] == steps - 6
