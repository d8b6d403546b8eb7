"""A child process that does one thing after another under limits, and is replaced when one of them ends it."""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 10
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
        ready, _, _ = select.select([self._get], [], [], LIMIT_S)
        if not ready:
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
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
            os.close(self._send)
            os.close(self._get)
            self._pid = 0

    def _start(self) -> None:
        there, self._send = os.pipe()
        self._get, back = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(there)
            os.close(back)
            return
        try:
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
