"""How much memory a process takes at the highest."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_CLEAR = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt


def of(function: Callable[[], Any], *, warm: Callable[[], Any] = lambda: None) -> int:
    """Bytes that calling it takes beyond what was there, at the highest, in a process of its own.

    `warm` is called before, to load what a first call loads. Skips the test where the system can't say.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            warm()
            libc = ctypes.CDLL(None)
            # What was freed before raises the size from which memory is asked of the system by itself, and then what
            # is freed in between stays: the peak would depend on what the parent did.
            if sys.platform == "linux" and hasattr(libc, "mallopt"):
                libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)
            libc.malloc_trim(0)  # or what the parent freed is used again, and counts for nothing
            _CLEAR.write_text("5")  # the high-water mark begins again
            before = _status("VmRSS")
            function()
            os.write(writer, str(_status("VmHWM") - before).encode())
        except BaseException:  # noqa: BLE001  nothing may get out of the child
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text and not os.access(_CLEAR, os.W_OK):
        pytest.skip("this system does not tell a process's memory")
    return int(text)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
