"""A child process that does one thing after another under limits, and is replaced when one of them ends it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 10  # of a processor, which others may want too
WAITED = 6  # times as long for what waits
LIMIT_BYTES = 4 << 30


class Child:
    """`work` is called in a fork with what `ask` is given, and returns None or a sentence that says what is wrong."""

    def __init__(self, work: Callable[[str], str | None]) -> None:
        self._work = work
        self._pid = 0
        self._send = self._get = -1

    def ask(self, what: str) -> str | None:
        """What `work` says; a sentence as well if it takes more than LIMIT_S or LIMIT_BYTES, or ends the process."""
        if not self._pid:
            self._start()
        os.write(self._send, json.dumps(what).encode() + b"\n")
        start, before_s = time.monotonic(), None
        while not select.select([self._get], [], [], min(LIMIT_S, 1))[0]:
            worked_s = self._worked_s()
            before_s = worked_s if before_s is None else before_s
            if worked_s - before_s > LIMIT_S or time.monotonic() - start > WAITED * LIMIT_S:
                self.close()
                return f"takes more than {LIMIT_S} s"
        answer = os.read(self._get, 1 << 16)
        if not answer:
            code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            self._pid = 0
            return f"ends the process with {code}"
        said: str | None = json.loads(answer)
        return said

    def close(self) -> None:
        """Ends the child."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):  # it began no group
                os.killpg(self._pid, 9)
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
            os.close(self._send)
            os.close(self._get)
            self._pid = 0

    def _worked_s(self) -> float:
        """What it and the processes that it began have had of a processor."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                told = path.read_text().rpartition(")")[2].split()
                ticks += sum(map(int, told[11:15])) if int(told[2]) == self._pid else 0
        return ticks / os.sysconf("SC_CLK_TCK")

    def _start(self) -> None:
        there, self._send = os.pipe()
        self._get, back = os.pipe()
        self._pid = os.fork()
        if self._pid:
            with contextlib.suppress(OSError):
                os.setpgid(self._pid, self._pid)
            os.close(there)
            os.close(back)
            return
        try:
            os.setpgid(0, 0)
            os.close(self._send)
            os.close(self._get)
            self._serve(there, back)
        finally:
            os._exit(1)

    def _serve(self, there: int, back: int) -> None:
        gc.freeze()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries in C print
        warnings.simplefilter("ignore")
        # Beyond what the libraries have mapped already.
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES, mapped + LIMIT_BYTES))
        with os.fdopen(there) as asked:
            for line in asked:
                try:
                    said = self._work(json.loads(line))
                except BaseException as e:  # noqa: BLE001  that is what is looked for
                    said = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
                sys.stdout.flush()
                os.write(back, json.dumps(said and said[:500]).encode())
