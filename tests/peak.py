"""How much memory a process takes at the highest."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

_CLEAR = Path("/proc/self/clear_refs")
_PRELOADED = ["torch", "h5py", "cloudpickle", "pipeline.codes.forward", "pipeline.data.decode"]
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt


def of(function: Callable[[], Any], *, warm: Callable[[], Any] = lambda: None) -> int:
    """Bytes that calling it takes beyond what was there, at the highest, in a process of its own.

    The process is a fork of one that has only imported: a fork of the tests' own would use what earlier tests freed,
    and the peak would depend on them. So the function is pickled; what a test patched before is not patched there.

    `warm` is called before, to load what a first call loads. Skips the test where the system can't say.
    """
    if not os.access(_CLEAR, os.W_OK):
        pytest.skip("this system does not tell a process's memory")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(writer, cloudpickle.dumps((function, warm)), dict(os.environ)))
    process.start()
    writer.close()
    try:
        return int(reader.recv())
    except EOFError:
        pytest.fail("what was measured failed in its process: see above")
    finally:
        process.join()
        reader.close()


def _measure(writer: Connection, pickled: bytes, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server has that of the first test
    trim = _all_is_given_back()
    function, warm = cloudpickle.loads(pickled)
    warm()
    gc.collect()
    trim()
    before = _status("VmRSS")
    _CLEAR.write_text("5")  # the high-water mark begins again
    function()
    writer.send(_status("VmHWM") - before)


def _all_is_given_back() -> Callable[[], Any]:
    """What is freed goes back to the system at once if it is large; the function that gives back the small, too.

    glibc keeps larger and larger pieces the more were freed: the peak would depend on what ran before.
    """
    libc = ctypes.CDLL(None)
    if sys.platform != "linux" or not hasattr(libc, "mallopt"):
        return lambda: None
    libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)
    return lambda: libc.malloc_trim(0)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
