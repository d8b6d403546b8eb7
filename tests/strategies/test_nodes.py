"""Machines that train together, each a program of its own here: they end where one does, or say what is wrong."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.strategies import checkpoints, devices, nodes
from pipeline.strategies.batches import Part
from pipeline.strategies.nodes import Nodes, meet, nodes_of
from pipeline.strategies.run import run_strategy
from pipeline.strategies.train import fit, follow
from pipeline.strategies.training import Training
from tests.strategies import world
from tests.strategies.test_devices import EVEN, Killed, assert_close, ended
from tests.strategies.test_training import LIMITS, made_of, state_of

ENDS_S = 120
THREE = replace(LIMITS, epochs=3)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def environment(rank: int, port: int) -> dict[str, str]:
    return {nodes.RANK: str(rank), nodes.HOST: "127.0.0.1", nodes.PORT: str(port)}


# -- who is who


def test_the_environment_tells_a_machines_place() -> None:
    assert nodes_of(1, {}) == Nodes() == nodes_of(1, environment(1, 29500))
    second = nodes_of(3, environment(2, 29500))
    assert second == Nodes(3, 2, "127.0.0.1", 29500)
    assert not second.is_first
    assert nodes_of(3, environment(0, 29500)).is_first
    with pytest.raises(
        UserError, match=r"finetune.compute.nodes 2 without NODE_RANK, MASTER_PORT in the environment"
    ) as e:
        nodes_of(2, {nodes.HOST: "a", nodes.PORT: ""})
    assert "NODE_RANK (0 to 1; 0 writes the results)" in str(e.value)


@pytest.mark.parametrize(("rank", "port"), [("2", "29500"), ("-1", "29500"), ("one", "29500"), ("1", "0"), ("1", "no")])
def test_numbers_that_can_not_be_are_refused(rank: str, port: str) -> None:
    with pytest.raises(UserError, match=f"finetune.compute.nodes 2 with NODE_RANK {rank} and MASTER_PORT {port}"):
        nodes_of(2, {nodes.RANK: rank, nodes.HOST: "a", nodes.PORT: port})


def test_what_machines_can_not_share_is_said_before_work_starts() -> None:
    with pytest.raises(UserError, match=r"finetune.compute.devices 1 on each of finetune.compute.nodes 2 with lbfgs"):
        world.params(nodes=2, optimiser="lbfgs")
    with pytest.raises(UserError, match=r"finetune.compute.devices 1 and finetune.compute.nodes 2 on mps"):
        devices.require(1, "mps", nodes=2)
    with pytest.raises(
        UserError, match=r"batch_size 7 is below two images .* finetune.compute.devices 2 on each of .*nodes 2"
    ):
        world.params(nodes=2, devices=2, batch_size=7)


# -- where they meet


def test_a_machine_finds_the_first_at_its_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    first, second = (Nodes(2, rank, "127.0.0.1", port) for rank in (0, 1))
    monkeypatch.setattr(nodes, "WAIT_S", 1.0)
    with pytest.raises(UserError, match=f"127.0.0.1:{port}, was not met in 1 s: nothing listens there"):
        meet(second, "this")
    store = meet(first, "this")
    found = meet(second, "this")
    store.set("said", "here")
    assert found.get("said") == b"here"
    with pytest.raises(UserError, match="it is at another run"):
        meet(second, "another")
    with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{port}"):
        meet(first, "this")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_name_of_no_machine_is_said_at_once(rank: int) -> None:
    with pytest.raises(UserError, match=r"MASTER_ADDR no\.such\.host\.invalid is not a name of a machine"):
        meet(Nodes(2, rank, "no.such.host.invalid", 29500), "this")


@pytest.mark.parametrize(
    "words",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:33",
        "[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
        "Gloo connectFullMesh failed with timeout",
        "Application timeout caused pair closure",
        "Read error [10.0.0.2]:33: No route to host",
    ],
)
def test_what_a_lost_machine_looks_like(words: str) -> None:
    assert devices._is_of_group(RuntimeError(words))
    assert not devices._is_of_group(RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x10 and 12x3)"))


def test_every_device_of_every_machine_has_a_part_of_its_own(tmp_path: Path) -> None:
    groups = [devices.Processes(2, "cpu", Nodes(3, rank, "a", 1), 1, tmp_path) for rank in range(3)]
    assert [group.part(local) for group in groups for local in range(2)] == [Part(rank, 6) for rank in range(6)]


# -- training


def beside(port: int, function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path) -> subprocess.Popen[str]:
    """The second machine: another program, which calls function(*arguments)."""
    path = folder / "call.pkl"
    path.write_bytes(pickle.dumps((function, arguments)))
    code = f"import pickle; f, a = pickle.load(open({str(path)!r}, 'rb')); f(*a)"
    env = os.environ | environment(1, port)
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)


def run_along(manifest: Manifest, cache: Path, out: Path, changes: dict[str, Any]) -> None:
    result = run_strategy("finetune", manifest, world.weights(), world.params(**changes), out, cache=cache)
    assert set(result) == {"strategy", "follows"}


@pytest.mark.slow
def test_two_machines_end_where_one_does(
    manifest: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two repeats, so that they meet twice."""
    port, changes = free_port(), EVEN | {"repeats": 2, "nodes": 2}
    for name, value in environment(0, port).items():
        monkeypatch.setenv(name, value)
    other = tmp_path / "other"
    other.mkdir()
    with ExitStack() as stack:
        program = stack.enter_context(beside(port, run_along, (manifest, cache, other / "out", changes), other))
        stack.callback(program.kill)
        found = run_strategy(
            "finetune", manifest, world.weights(), world.params(**changes), tmp_path / "out", cache=cache
        )
        _, said = program.communicate(timeout=ENDS_S)
        assert program.returncode == 0, said
    assert not (other / "out").exists()
    assert found["devices"] == 2

    alone = world.params(**(changes | {"nodes": 1}))
    expected = run_strategy("finetune", manifest, world.weights(), alone, tmp_path / "one", cache=cache)
    assert json_files.read(tmp_path / "out/groups.json") == json_files.read(tmp_path / "one/groups.json")
    for a, b in zip(found["repeats"], expected["repeats"], strict=True):
        assert a["log_loss"] == pytest.approx(b["log_loss"], rel=1e-3)
    assert not world.left(cache)


def follow_fc(manifest: Manifest, cache: Path, folder: Path, port: int, *, kind: type[Training] = Training) -> None:
    made, training = made_of("fc", manifest, cache, **EVEN)
    training.__class__ = kind
    assert made.train is not None
    follow(training, made.train, made.val, THREE, folder=folder, key="k", nodes=Nodes(2, 1, "127.0.0.1", port))


def follow_and_die(manifest: Manifest, cache: Path, folder: Path, port: int) -> None:
    follow_fc(manifest, cache, folder, port, kind=Killed)


@pytest.mark.slow
def test_a_lost_machine_ends_the_others_and_the_next_run_goes_on(
    manifest: Manifest, cache: Path, tmp_path: Path
) -> None:
    port = free_port()
    made, training = made_of("fc", manifest, cache, **EVEN)
    assert made.train is not None
    with ExitStack() as stack:
        program = stack.enter_context(beside(port, follow_and_die, (manifest, cache, tmp_path / "two", port), tmp_path))
        stack.callback(program.kill)
        with pytest.raises(UserError, match=r"a training process of another machine ended .*; checkpoints are kept"):
            fit(
                training,
                made.train,
                made.val,
                THREE,
                folder=tmp_path / "two",
                key="k",
                nodes=Nodes(2, 0, "127.0.0.1", port),
            )
        _, said = program.communicate(timeout=ENDS_S)
        assert "a training process ended by SIGKILL" in said
    assert [row["epoch"] for row in ended(tmp_path / "two")[0]] == [1]

    # Here the key is the same for one machine, which goes on from where two were.
    again, whole = (made_of("fc", manifest, cache, **EVEN)[1] for _ in range(2))
    fit(again, made.train, made.val, THREE, folder=tmp_path / "two", key="k")
    fit(whole, made.train, made.val, THREE, folder=tmp_path / "one", key="k")
    assert_close(again.curve, whole.curve)
    for name, tensor in state_of(whole).items():
        torch.testing.assert_close(state_of(again)[name], tensor, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_machines_with_different_checkpoints_do_not_begin(manifest: Manifest, cache: Path, tmp_path: Path) -> None:
    port = free_port()
    made, training = made_of("fc", manifest, cache, **EVEN)
    assert made.train is not None
    fit(training, made.train, made.val, LIMITS, folder=tmp_path / "one", key="k")
    before = (tmp_path / "one" / checkpoints.LAST).read_bytes()
    with ExitStack() as stack:
        program = stack.enter_context(beside(port, follow_fc, (manifest, cache, tmp_path / "two", port), tmp_path))
        stack.callback(program.kill)
        first = Nodes(2, 0, "127.0.0.1", port)
        with pytest.raises(UserError, match=r"machines would go on from different checkpoints: .*, none, by device"):
            fit(training, made.train, made.val, THREE, folder=tmp_path / "one", key="k", nodes=first)
        program.communicate(timeout=ENDS_S)
    assert (tmp_path / "one" / checkpoints.LAST).read_bytes() == before
