"""What a long computation has found so far: a run that was stopped leaves it, and the next one goes on from there.

It lies in the cache, in a folder named by all that changes what is found, until the results are written. What is kept
is written every half a minute (`stopping.Timer`), so that whatever is quicker than that writes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import hdf5_files, json_files, plain_json, stopping
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS

log = logging.getLogger(__name__)

FOLDER = "unfinished"
_VALUES = "values"
_TRANSPOSED = "transposed"


@dataclass(frozen=True)
class Part:
    """`arrays` come back with their layout in memory, on which the last bits of products hang; `values` is JSON."""

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


class SoFar:
    """One piece of a computation, and by `part` the pieces that it is made of.

    What is kept of a piece stands for all that was kept of its own pieces.
    """

    def __init__(self, book: _Book, name: str = "", clock: _Clock | None = None) -> None:
        self._book, self._name, self._clock = book, name, clock or _Clock()

    @property
    def written(self) -> bool:
        """Whether something is on the disk."""
        return self._book.written

    def part(self, name: str) -> SoFar:
        """A piece of this one; pieces of the whole have each a clock of their own."""
        return SoFar(self._book, f"{self._name}/{name}" if self._name else name, self._clock if self._name else None)

    def seconds(self) -> float:
        """What the piece of the whole that this belongs to has taken, in runs that were stopped too."""
        return self._clock.seconds()

    def found(self) -> Part | None:
        """What an earlier run kept of it; what is broken is not there."""
        read = self._book.read(self._name)
        if read is None:
            return None
        self._clock.begin_at(read[1])
        return read[0]

    def keep(self, make: Callable[[], Part]) -> None:
        """Has what `make` gives written when it is time, now or with what is kept next.

        Until then the arrays must not change, but for those of a piece of which something is kept again.
        """
        self._book.keep(self._name, make, self._clock)

    def once(self, make: Callable[[], Part]) -> Part:
        """What was found, or what `make` gives, which is then kept."""
        part = self.found()
        if part is None:
            part = made = make()
            self.keep(lambda: made)
        return part


class _Clock:
    def __init__(self) -> None:
        self._began_s, self._before_s = time.perf_counter(), 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self._began_s + self._before_s

    def begin_at(self, seconds: float) -> None:
        self._before_s = max(self._before_s, seconds)


class _Book:
    """The files of one computation; `folder` None: none are read or written."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.written = False
        self._timer = stopping.Timer()
        self._waiting: dict[str, tuple[Callable[[], Part], _Clock]] = {}
        self._kept: set[str] = set()  # by this run
        self._marks: dict[str, str] = {}  # of the files

    def read(self, name: str) -> tuple[Part, float] | None:
        if self.folder is None or not (path := _file(self.folder, name)).is_file():
            return None
        # This run is beyond it.
        if name in self._kept or any(above in self._kept for above in _above(name)):
            return None
        try:
            with hdf5_files.opened(path) as f:
                arrays = {key: data[()].T if data.attrs[_TRANSPOSED] else data[()] for key, data in f["arrays"].items()}
                part = Part(arrays, plain_json.loads(f[_VALUES][()].tobytes().decode()))
                seconds, mark, of = float(f.attrs["seconds"]), str(f.attrs["mark"]), str(f.attrs["of"])
        except (UserError, OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError):
            return None
        if of != self._mark_above(name):
            return None
        self.written, self._marks[name] = True, mark
        return part, seconds

    def _mark_above(self, name: str) -> str:
        """The mark of the nearest kept piece around this one, "" if none is kept.

        A file with another mark is older than that piece, and of no use.
        """
        return next((self._marks[above] for above in _above(name) if above in self._marks), "")

    def keep(self, name: str, make: Callable[[], Part], clock: _Clock) -> None:
        if self.folder is None:
            return
        # Its own pieces are not wanted any more; the order is that in which the files come to be.
        for other in [other for other in self._waiting if other == name or other.startswith(f"{name}/")]:
            del self._waiting[other]
        self._waiting[name] = (make, clock)
        self._kept.add(name)
        if not self._timer.is_due():
            return
        started_s = time.monotonic()
        try:
            for waiting, (made, own) in self._waiting.items():
                mark = secrets.token_hex(8)
                _write(self.folder, waiting, made(), seconds=own.seconds(), mark=mark, of=self._mark_above(waiting))
                self._marks = {n: m for n, m in self._marks.items() if not n.startswith(f"{waiting}/")}
                self._marks[waiting] = mark
        except (UserError, OSError) as e:
            log.warning("what is found so far can't be kept, and a stop would cost it: %s", e)
            self.folder = None
            return
        self.written = True
        self._waiting.clear()
        self._timer.written(time.monotonic() - started_s)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.h5"


def _above(name: str) -> Iterator[str]:
    """The pieces that it is part of, the nearest first."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _write(folder: Path, name: str, part: Part, **attributes: float | str) -> None:
    with hdf5_files.new(_file(folder, name)) as f:
        f.attrs.update({"version": VERSIONS["unfinished"], **attributes})
        arrays = f.create_group("arrays")
        for key, value in part.arrays.items():
            array = np.asarray(value)
            transposed = array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous
            arrays.create_dataset(key, data=array.T if transposed else array).attrs[_TRANSPOSED] = transposed
        values = json_files.canonical(dict(part.values)).encode()
        f.create_dataset(_VALUES, data=np.frombuffer(values, dtype=np.uint8))
    shutil.rmtree(folder / name, ignore_errors=True)


NOTHING = SoFar(_Book(None))


@contextlib.contextmanager
def of(cache: Path | None, key: Mapping[str, Any]) -> Iterator[SoFar]:
    """What was found of the computation that `key` describes, by plain values: all that changes what is found.

    It is removed at the end, since the results stand then. `cache` None: nothing is kept.
    """
    if cache is None:
        yield SoFar(_Book(None))
        return
    about = {"version": VERSIONS["unfinished"], "numpy": np.__version__, **key}
    folder = cache / FOLDER / json_files.fingerprint(about)[:32]
    yield SoFar(_Book(folder))
    shutil.rmtree(folder, ignore_errors=True)
