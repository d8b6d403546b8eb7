"""Ctrl-C at any moment: one line that says what is kept, 130, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from pipeline.base import front, stopping
from pipeline.cli.app import app
from stages import _run
from tests.cli.process import ROOT

# Imports the command line as the console script does, and gets Ctrl-C while a module is looked for.
STOPPED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from pipeline.cli import main
sys.argv = ["cnncodes", "layers"]
main()
"""
LONG = [
    ("extract",), ("compare",), ("finetune",), ("lr-find",), ("sanity",), ("advise",),
    ("index", "build"), ("index", "add"), ("index", "verify"),
]  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize(
    "name", ["pipeline.base.stopping", "pipeline.base.front", "pipeline.base.failing", "pipeline.cli.app", "typer"]
)
def test_ctrl_c_during_the_imports_is_told(name: str) -> None:
    done = python(STOPPED.format(name=name))
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, "")
    assert done.stderr == "cnncodes: stopped by Ctrl-C; nothing was begun\n"


def test_nothing_is_imported_before_a_stop_can_be_told() -> None:
    """Else Ctrl-C meanwhile ends in a traceback of Python's own."""
    done = python(
        "import __future__, sys; old = set(sys.modules); import pipeline.cli; print(sorted(set(sys.modules) - old))"
    )
    assert done.stdout == "['pipeline', 'pipeline.cli']\n", done.stderr


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def stopped(call: Callable[[], object]) -> list[str]:
    with pytest.raises(KeyboardInterrupt) as found:
        call()
    return list(getattr(found.value, "__notes__", ()))


@pytest.mark.parametrize("path", LONG, ids=" ".join)
def test_a_long_command_that_is_stopped_while_it_loads_says_what_is_kept(path: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    command.callback = stop
    context = command.make_context("x", [], resilient_parsing=True)
    assert stopped(lambda: command.invoke(context)) == [stopping.KEPT]


def test_a_stage_that_is_stopped_while_it_loads_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "run", lambda main, *, name: main())
    monkeypatch.setattr("pipeline.config.load_all", stop)
    assert stopped(lambda: _run.run(lambda: None)) == [stopping.KEPT]


def test_what_knows_more_is_not_talked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        with stopping.says(lambda: "3 of 4 are kept"):
            stop()

    monkeypatch.setattr(front, "run", lambda main, *, name: main())
    monkeypatch.setattr("pipeline.config.load_all", lambda: None)
    assert stopped(lambda: _run.run(main)) == ["3 of 4 are kept"]
