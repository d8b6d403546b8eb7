"""A sample of `make reliability`, drawn by the seed, and the machinery's own tests."""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.front import ExitCode
from tests.reliability import faults, folders, jobs, kills, trial
from tests.reliability.commands import COMMANDS, Command
from tests.reliability.registry import PARTS, Draw, Part
from tests.reliability.runner import Fault, Runner, Told, has_compiler
from tests.reliability.state import State, counts

SAMPLES = {"faults": (faults.draws, 300), "reads": (faults.read_draws, 60), "kills": (kills.draws, 20)}
SHARDS = 10  # each a test with some of the commands, so that all cores have work
SEED = 13

compiled = pytest.mark.skipif(not has_compiler(), reason="needs a C compiler")


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_sample(shard: int) -> None:
    found = {}
    for part, (draws, count) in SAMPLES.items():
        few = itertools.islice(draws(SEED, count // SHARDS, list(COMMANDS.values())[shard::SHARDS]), count // SHARDS)
        found |= {f"{part} {draw.name}": draw.wrong() for draw in few}
    assert len(found) == sum(count // SHARDS for _, count in SAMPLES.values())
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@compiled
@pytest.mark.slow
def test_a_command_that_writes_in_place_is_found_out() -> None:
    """The trial can fail: of a file that is half there, of a temporary one, of a row that is other."""
    here, command = trial.world(), COMMANDS["export-npy"]
    calm = here.undisturbed(command)
    here.fresh(command)
    (here.box / "made.npy").write_bytes(b"half")
    (here.box / ".made.npy.abcdefgh.tmp.npy").touch()
    now = trial.snapshot(here.box)
    assert "made.npy is neither as before nor whole" in trial._state(now, calm, done=False)
    assert trial.leftovers(here.box) == [".made.npy.abcdefgh.tmp.npy"]


@compiled
@pytest.mark.slow
def test_the_library_fails_the_call_that_is_asked_for(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    try:
        (runner.box / "tmp").mkdir()
        argv = ("cnncodes", "weights", "convert", "none.pth")
        assert runner.run(*argv, fault=Fault(0)).calls == []
        assert runner.run("weights", fault=Fault(0)).code == 2, "no params.yaml"
        told = runner.run("cnncodes", "layers", fault=Fault(1, error=errno.EIO, reads=True))
        assert told.code == 0 and not told.calls, "reads nothing below the box"
    finally:
        runner.close()


def test_what_a_check_found_is_no_fault_of_its_own_command_alone() -> None:
    calm = trial.Undisturbed(0, 1.0, {}, {}, (), (), ())
    found = Told(1, "", "", 1.0, (), killed=False, hung=False)
    reads, writes = (Fault(1, error=errno.EIO, reads=reads) for reads in (True, False))
    assert trial._sentence(found, calm, reads, fewer=ExitCode.FOUND) == []
    assert trial._sentence(found, calm, writes, fewer=ExitCode.FOUND)
    assert trial._sentence(found, calm, reads, fewer=ExitCode.DONE)
    assert {c.name: c.fewer for c in COMMANDS.values() if c.fewer} == {
        "lr-find": ExitCode.UNANSWERED,
        "sanity": ExitCode.FOUND,
    }


def test_states_that_differ_are_not_taken_for_one_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "empty").mkdir()

    def now() -> str:
        return folders.mark(tmp_path, folders.snapshot(tmp_path))

    seen = [now()]
    assert now() == seen[0]
    (tmp_path / "a").write_text("2")
    seen.append(now())
    (tmp_path / "a").chmod(0o600)
    seen.append(now())
    (tmp_path / "empty").rmdir()
    seen.append(now())
    (tmp_path / ".lock").touch()
    assert len({*seen, now()}) == 5


@pytest.mark.parametrize("count", [5, 30, 40])
def test_a_sample_is_as_large_as_asked_for(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though some commands have few draws, whichever comes last."""
    have = dict(zip(COMMANDS.values(), (3, 40, 1), strict=False))

    def few(command: Command, *, reads: bool) -> Iterator[Draw]:
        return (Draw(f"{command.name} {i}", lambda: None) for i in range(have[command]))

    monkeypatch.setattr(faults, "_draws", few)
    for seed in range(6):
        names = {draw.name for draw in faults.draws(seed, count, have)}
        assert len(names) == count
        assert len({name.split()[0] for name in names}) == 3, "of each command"


def numbers(seed: int, count: int | None) -> Iterator[Draw]:
    def who() -> str:
        time.sleep(0.01)
        return f"process {os.getpid()}"

    return (Draw(str(i), who) for i in itertools.count())


def dying(seed: int, count: int | None) -> Iterator[Draw]:
    return iter([Draw("a", lambda: os._exit(3))])


def test_processes_share_the_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numbers", "dying"):
        monkeypatch.setitem(PARTS, name, Part(name, f"{__name__}:{name}", None, ""))
    path = tmp_path / "state.jsonl"
    rows = list(jobs.rows(path, 1, {"numbers": 60}, 2))
    assert sorted(int(row["draw"]) for row in rows) == [*range(60)], "each once"
    assert len({row["wrong"] for row in rows} - {f"process {os.getpid()}"}) == 2
    assert sorted(map(json.dumps, rows)) == sorted(path.read_text().splitlines())
    with pytest.raises(RuntimeError, match="ended with 3"):
        list(jobs.rows(path, 1, {"dying": 1}, 2))


def test_what_was_tried_is_not_tried_by_any_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "dying", Part("dying", f"{__name__}:dying", None, ""))
    row = {"seed": 1, "part": "dying", "draw": "a", "wrong": None, "s": 1.0}
    (tmp_path / "state.jsonl").write_text(json.dumps(row) + "\n")
    assert list(jobs.rows(tmp_path / "state.jsonl", 1, {"dying": None}, 3)) == [row]


def some(results: dict[str, str | None]) -> Iterator[Draw]:
    return (Draw(name, lambda wrong=wrong: wrong) for name, wrong in results.items())  # type: ignore[misc]


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    tried = list(State(path, 1).tried("kills", some({"a": None, "b": "bad"})))
    assert [row["wrong"] for row in tried] == [None, "bad"]
    with path.open("a") as file:
        file.write('{"seed": 1, "pa')  # killed while it wrote

    def never() -> str | None:
        raise AssertionError("was tried before")

    again = [Draw("a", never), *some({"b": None, "c": None})]
    rows = list(State(path, 1).tried("kills", iter(again)))
    assert [row["wrong"] for row in rows] == [None, None, None], "what was wrong is tried once more"
    assert counts(rows)["kills"]["draws"] == 3 and counts(rows)["kills"]["wrong"] == 0
    assert [json.loads(line)["draw"] for line in path.read_text().splitlines() if line.endswith("}")] == [*"abbc"]
    assert State(path, 2).found == {}, "another seed has draws of its own"


def test_a_trial_that_breaks_is_wrong() -> None:
    def breaks() -> str | None:
        return {}["not there"]

    assert "KeyError" in str(Draw("x", breaks).wrong())
