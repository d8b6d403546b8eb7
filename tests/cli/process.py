"""`cnncodes` in a process of its own, forked from one that has its imports: seconds less for each command.

What a fresh process imports, what it prints meanwhile and how long that takes is for tests/test_readme.py,
tests/test_imports.py and what asks for help in test_codes.py.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.config import preset_values

ROOT = Path(__file__).parents[2]


def cnncodes(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command with the environment as it is now."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    with tempfile.TemporaryDirectory() as folder:
        asked = {"args": [*map(str, args)], "cwd": str(cwd), "environment": environment, "folder": folder}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(["cnncodes", *asked["args"]], code, out, err)


@functools.cache
def _server() -> subprocess.Popen[str]:
    """It ends with this process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def main() -> None:
    """Forks for each line that asks, and answers with the exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    for name in ("torch", "pipeline.cli.app"):
        importlib.import_module(name)
    preset_values()  # parsed once for all
    gc.freeze()  # forks would copy what a collection touches, at their end too
    for line in os.fdopen(os.dup(0)):
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(asked)
            importlib.import_module(
                "pipeline.cli"
            ).main()  # raises SystemExit, which ends the fork as it does a process
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(FileNotFoundError):  # killed
            for name in (Path(asked["folder"]) / "modules").read_text().splitlines():
                with contextlib.suppress(Exception):  # the command that wants it tells why
                    importlib.import_module(name)
            gc.freeze()
        answers.write(f"{code}\n")
        answers.flush()


def _become(asked: dict[str, Any]) -> None:
    """The process of a command: its files, folder, environment and arguments."""
    folder = Path(asked["folder"])
    new = (
        os.open(os.devnull, os.O_RDONLY),
        *(os.open(folder / name, os.O_WRONLY | os.O_CREAT) for name in ("out", "err")),
    )
    for old, file in enumerate(new):
        os.dup2(file, old)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    tempfile.tempdir = None
    logging.getLogger().handlers.clear()
    sys.argv = ["cnncodes", *asked["args"]]
    before = set(sys.modules)
    # The next commands find them imported.
    atexit.register(lambda: (folder / "modules").write_text("\n".join(sorted(set(sys.modules) - before))))


if __name__ == "__main__":
    main()
