"""Files and folders that were made to do harm, one a kind: each ends in a sentence, and nothing else comes of it."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.nets.weights.sources import open_file
from tests import small_files
from tests.reliability.child import Child
from tests.reliability.registry import Draw


def draws(seed: int, count: int | None) -> Iterator[Draw]:
    """All there are; nothing of them is random."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def look(name: str) -> str | None:
        suffix, make = small_files.WEIGHTS[name]
        path = folder / f"hostile{suffix}"
        if not path.exists():
            make(path)
            return None
        try:
            open_file(path).named("tinyvgg")
        except UserError as e:
            return None if str(e).isprintable() else f"its sentence is {str(e)!r}"
        finally:
            path.unlink()
        return None

    child = Child(look)
    for name in small_files.WEIGHTS:
        yield Draw(name, functools.partial(_twice, child, name))


def _twice(child: Child, name: str) -> str | None:
    """Makes the file, which may take long, then has it read."""
    return child.ask(name) or child.ask(name)
