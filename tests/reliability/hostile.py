"""Files and folders that were made to do harm, one a kind: each ends in a sentence, and nothing else comes of it."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import UserError
from pipeline.data.decode import DecodeError, decode
from pipeline.nets.weights.sources import open_file
from tests import small_files
from tests.reliability.child import Child
from tests.reliability.images import MOST_PIXELS
from tests.reliability.registry import Draw

ROOT = Path(__file__).parents[2]
# Where the other kinds are made: links and data elsewhere, names that lead out, pipes, code, lies about sizes.
TESTS = (
    "tests/search/test_hostile.py",
    "tests/test_hostile_collection.py",
    "tests/base/test_plain_hdf5.py",
    "tests/base/test_tried_hdf5.py",
    "tests/base/test_plain_json.py",
    "tests/test_yaml.py",
    "tests/nets/weights/test_safety.py",
    "tests/nets/weights/test_plain_pickle.py",
    "tests/data/test_small_images.py",
    "tests/web/test_safety.py",
)


def draws(seed: int, count: int | None) -> Iterator[Draw]:
    """All there are; nothing of them is random. First files that ask for much, then the tests of the other kinds."""
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
    decoder = Child(_decoded)
    for name in small_files.IMAGES:
        yield Draw(name, functools.partial(decoder.ask, name))
    for module in TESTS:
        yield Draw(module, functools.partial(_tested, module))


def _decoded(name: str) -> str | None:
    try:
        decode(small_files.IMAGES[name](), max_pixels=MOST_PIXELS)
    except DecodeError as e:
        return None if str(e).isprintable() else f"its sentence is {str(e)!r}"
    return None


def _tested(module: str) -> str | None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", module]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return None if done.returncode == 0 else done.stdout.strip().rpartition("\n")[2]


def _twice(child: Child, name: str) -> str | None:
    """Makes the file, which may take long, then has it read."""
    return child.ask(name) or child.ask(name)
