"""A process that has its imports and forks a child for each command, so that a trial takes as long as its work.

Asked and answered by lines of JSON (`Asked`, `Told`); started by `runner.Runner`, under the library of failing.c.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from pipeline.base import held
from pipeline.config import preset_values

LIMIT_S = 120
LEARNING = 5  # times as long for a run that imports first


def main() -> None:
    """Reads requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    scratch = Path(sys.argv[1])
    for name in ("pipeline.cli", "torch"):
        importlib.import_module(name)
    preset_values()  # parsed once for all
    gc.freeze()  # children would copy what a collection touches
    held._JUST_MADE_S = 0.0  # a rerun comes at once here, and no other run is at work
    for line in sys.stdin:
        asked = json.loads(line)
        if "modules" in asked:
            told: dict[str, Any] = {"failed": _import(asked["modules"])}
            gc.collect()
            gc.freeze()
        else:
            told = _run(asked, scratch)
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def _import(names: list[str]) -> list[str]:
    failed = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001  the command that wants it will tell
            failed.append(name)
    return failed


def _run(asked: dict[str, Any], scratch: Path) -> dict[str, Any]:
    begun, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _child(asked, scratch, begin)
    os.close(begin)
    os.read(begun, 1)  # the command begins now, or its process has ended
    os.close(begun)
    start = time.monotonic()
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    kill_s = asked["kill_s"]
    limit_s = LIMIT_S * (LEARNING if asked["learn"] else 1)
    sent, hung, status = False, False, 0
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        elapsed_s = time.monotonic() - start
        if kill_s is not None and not sent and elapsed_s >= kill_s:
            sent = True
            # As a terminal does for Ctrl-C, and as `kill` for the others.
            (os.killpg if asked["signal"] == signal.SIGINT else os.kill)(pid, asked["signal"])
        if elapsed_s > limit_s:
            hung = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    with contextlib.suppress(OSError):  # processes of its own
        os.killpg(pid, signal.SIGKILL)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "killed": sent,
        "hung": hung,
        "s": time.monotonic() - start,
        "out": (scratch / "out").read_text(errors="replace"),
        "err": (scratch / "err").read_text(errors="replace"),
        "calls": (scratch / "calls").read_text(errors="replace").splitlines(),
        "modules": json.loads((scratch / "modules").read_text() or "[]"),
    }


def _child(asked: dict[str, Any], scratch: Path, begin: int) -> NoReturn:
    code = 70
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    nothing = os.open("/dev/null", os.O_RDONLY)
    out, err = (os.open(scratch / name, flags) for name in ("out", "err"))
    (scratch / "modules").write_text("")
    for new, old in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(new, old)
    try:
        calls = os.open(scratch / "calls", flags | os.O_APPEND)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(asked["cwd"])
        os.environ.update(asked["env"])
        tempfile.tempdir = None
        logging.getLogger().handlers.clear()
        before = set(sys.modules)
        argv = asked["argv"]
        sys.argv = argv
        entry = _entry(argv[0])
        if fault := asked["fault"]:
            library = ctypes.CDLL(None)
            library.failing_arm(
                fault["below"].encode(),
                ctypes.c_long(fault["nth"]),
                fault["error"],
                fault["always"],
                fault["reads"],
                calls,
            )
        os.write(begin, b".")
        os.close(begin)
        code = _code(entry)
        if asked["learn"]:
            (scratch / "modules").write_text(json.dumps(sorted(set(sys.modules) - before)))
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 70
    finally:
        os._exit(code)


def _entry(name: str) -> Any:
    if name == "cnncodes":
        return importlib.import_module("pipeline.cli").main
    stage = importlib.import_module(f"stages.{name}")
    return lambda: stage.run(stage.main)


def _code(entry: Any) -> int:
    try:
        entry()
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        sys.stderr.write(f"{e.code}\n")
        return 1
    except KeyboardInterrupt:  # before the first line of ours
        return 130
    except BaseException:  # noqa: BLE001  as the interpreter ends
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
