"""Commands in forked processes: counted, made to fail at one call, or killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """The `nth` call that writes (or `reads`) below the box, from 1, fails; if `always`, all that follow do too."""

    nth: int
    error: int = errno.ENOSPC
    always: bool = False
    reads: bool = False


@dataclass(frozen=True)
class Told:
    """How a command ended. `calls`: "<name> <path>" of each counted call, if any were asked for."""

    code: int
    out: str
    err: str
    s: float
    calls: Sequence[str]
    killed: bool
    hung: bool


def has_compiler() -> bool:
    """Whether the library can be built. Without a compiler trials are skipped, but never where CI is set."""
    return shutil.which("cc") is not None or bool(os.environ.get("CI"))


def build(folder: Path) -> Path:
    """The library of failing.c."""
    path = folder / "failing.so"
    source = HERE / "failing.c"
    subprocess.run(["cc", "-Wall", "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path


class Runner:
    """A server process, and one box: the folder in which commands run, with their cache and temporary files.

    `folder`: a new one, which also gets the library and what commands print.
    """

    def __init__(self, folder: Path) -> None:
        self.box = folder / "box"
        self.box.mkdir(parents=True)
        scratch = folder / "scratch"
        scratch.mkdir()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CNNCODES_", "DVC_"))}
        env = kept | threads | {"LD_PRELOAD": str(build(folder)), "PYTHONPATH": str(HERE.parents[1])}
        command = [sys.executable, "-m", "tests.reliability.server", str(scratch)]
        self._server = subprocess.Popen(
            command, env=env, cwd=HERE.parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        """Ends the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)

    def run(
        self,
        *argv: str,
        fault: Fault | None = None,
        kill_s: float | None = None,
        signal_: int = signal.SIGKILL,
        learn: bool = False,
        **env: str,
    ) -> Told:
        """`cnncodes ...` or a stage's name, in the box. `learn`: what it imports is there for the next ones."""
        own = {"CNNCODES_CACHE": str(self.box / "cache"), "TMPDIR": str(self.box / "tmp"), "CNNCODES_PRECISION": "fp32"}
        failing = fault and {
            "below": str(self.box),
            "nth": fault.nth,
            "error": fault.error,
            "always": int(fault.always),
            "reads": int(fault.reads),
        }
        asked = {"argv": argv, "cwd": str(self.box), "env": own | env, "fault": failing, "learn": learn}
        told = self._ask({**asked, "kill_s": kill_s, "signal": int(signal_)})
        modules = told.pop("modules")
        if modules:
            self._ask({"modules": modules})
        return Told(**told)

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        told: dict[str, Any] = json.loads(self._server.stdout.readline())
        return told
