"""The draws of several parts shared over processes, each with a world of its own."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from tests.reliability.registry import PARTS, Draw
from tests.reliability.state import State

Row: TypeAlias = dict[str, Any]


def rows(path: Path, seed: int, counts: Mapping[str, int | None], jobs: int) -> Iterator[Row]:
    """The result of each draw of the parts that `counts` names (None: all there are), as `State.tried` has it, in the
    order in which they come. Raises RuntimeError if a process ends before its work does."""
    fork = multiprocessing.get_context("fork")
    claimed = {name: fork.Value("l", 0) for name in counts}
    at_work: dict[Connection, Any] = {}
    try:
        for _ in range(jobs):
            reader, writer = fork.Pipe(duplex=False)
            process = fork.Process(target=_work, args=(path, seed, counts, claimed, writer))
            process.start()
            writer.close()
            at_work[reader] = process
        while at_work:
            connection.wait([*at_work, *(process.sentinel for process in at_work.values())])
            for reader, process in list(at_work.items()):
                ended = process.exitcode is not None  # before the look at what it said last
                while reader.poll():
                    try:
                        yield reader.recv()
                    except EOFError:
                        break
                if ended:
                    del at_work[reader]
                    if process.exitcode:
                        raise RuntimeError(f"a process of the run ended with {process.exitcode}")
    finally:
        for process in at_work.values():
            process.terminate()  # which is a SystemExit there, so that its world is removed
        for process in at_work.values():
            process.join()


def _work(
    path: Path, seed: int, counts: Mapping[str, int | None], claimed: Mapping[str, Any], said: Connection
) -> None:
    atexit._clear()  # what the process that began this one has to tidy up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        state = State(path, seed)
        for name, count in counts.items():
            for row in state.tried(name, _claimed(PARTS[name].draws(seed, count), claimed[name])):
                said.send(row)
    finally:
        atexit._run_exitfuncs()  # processes of multiprocessing leave them out


def _claimed(draws: Iterator[Draw], claimed: Any) -> Iterator[Draw]:
    """Those that no other process has: all iterate over the same draws in the same order, and each takes the first that
    is free when it has done one."""
    mine = _next(claimed)
    for number, draw in enumerate(draws):
        if number == mine:
            yield draw
            mine = _next(claimed)


def _next(claimed: Any) -> int:
    with claimed.get_lock():
        claimed.value += 1
        return int(claimed.value) - 1


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
