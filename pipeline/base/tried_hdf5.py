"""Another program's HDF5 file, looked through first in a process of its own, which has an end.

The HDF5 library believes what a file says of itself: where a heap of texts states that an object of it takes no bytes,
or a list of free places leads back to where it began, it goes round without end, and a text may be said to have
4 GB, which the library fills with zeros before it looks for the text. Neither can be told from outside the library:
where these places lie, and what is packed there, only it can read. So all that is later read of such a file but the
plain values of its arrays (`plain_hdf5`, then every text of any length) is read once before, by a process that may
take seconds and bytes in proportion to the file (`budget`). What it read in these the caller reads too.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.base import plain_json
from pipeline.base.budget import TooMuchError, tried_bytes, tried_s
from pipeline.base.errors import UserError

_TEXTS = 1024  # read at a time, as many as the reader of data sets takes


def require_read(source: str | Path | io.BytesIO, file_bytes: int, where: object) -> None:
    """Raises what `plain_hdf5.require_plain` does, OSError if the library can't read a text or ends its process, and
    TooMuchError if it takes longer than a file of this length can.

    source: a file, or its bytes. where: how to call it.
    """
    name, content = ("", source.getvalue()) if isinstance(source, io.BytesIO) else (str(source), b"")
    # -P: a module in the folder where one happens to be is none of ours.
    command = [sys.executable, "-P", "-m", "pipeline.base.tried_hdf5", name, str(file_bytes), str(where)]
    found = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command,
        input=content,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(found)},
        check=False,
    )
    if done.returncode == -signal.SIGXCPU:
        raise TooMuchError(
            f"{where} keeps the HDF5 library at work for more than {tried_s(file_bytes):.0f} s",
            allowed="what a sound file of its length takes",
        )
    if done.returncode < 0:
        raise OSError(f"the HDF5 library breaks down on it ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        raise RuntimeError(f"the process that looks through {where} failed: {done.stderr.decode(errors='replace')}")
    said = plain_json.loads(done.stdout)
    if "user" in said:
        what, allowed, see = said["user"]
        raise UserError(what, allowed=allowed, see=see)
    if "system" in said:
        raise OSError(said["system"])


def main() -> None:
    """The process: the file's name ("": its bytes come by stdin), its length, how to call it. One line of JSON."""
    name, length, where = sys.argv[1:]
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr: stdout has the answer alone
    source = name or io.BytesIO(sys.stdin.buffer.read())
    from pipeline.base.plain_hdf5 import require_plain  # the library takes its memory before the limit is set

    _limit(int(length))
    try:
        import h5py

        with h5py.File(source, "r", locking=False) as file:
            require_plain(file, int(length), where, texts=True)
            _read_texts(file)
        said: dict[str, Any] = {}
    except UserError as e:
        said = {"user": (e.what, e.allowed, e.see)}
    except (OSError, RuntimeError, KeyError) as e:
        said = {"system": " ".join(str(e).split())}
    except MemoryError:
        most = f"{tried_bytes(int(length)):,} bytes"
        said = {"user": (f"{where} has {int(length):,} bytes and asks the HDF5 library for more than {most}", most, "")}
    answer.write(json.dumps(said) + "\n")
    answer.flush()


def _limit(file_bytes: int) -> None:
    """Bounds what this process takes from now on: processor time, and memory beyond what libraries have mapped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = resource.getrusage(resource.RUSAGE_SELF)
    end_s = math.ceil(used.ru_utime + used.ru_stime + tried_s(file_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (end_s, end_s + 1))
    with contextlib.suppress(FileNotFoundError):  # systems without /proc bound no address space either
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + tried_bytes(file_bytes),) * 2)


def _read_texts(file: Any) -> None:
    """Every text of any length, in arrays and attributes."""
    import h5py

    from pipeline.base.plain_hdf5 import endless_attributes, objects

    for found in objects(file, file.filename):
        for name in endless_attributes(found):
            with contextlib.suppress(TypeError, ValueError):  # a type that h5py doesn't know: it asked for no value
                found.attrs[name]
        if isinstance(found, h5py.Dataset) and found.shape is not None and found.dtype.kind == "O":
            if found.ndim == 0:
                found[()]
                continue
            at_once = max(1, _TEXTS // max(1, math.prod(found.shape[1:])))
            for start in range(0, len(found), at_once):
                found[start : start + at_once]


if __name__ == "__main__":
    main()
