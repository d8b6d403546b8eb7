"""A network file system without locks (NFS, Lustre): everything works, nothing is called damaged."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pictures import draw_classes

ERRORS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]
Run = Callable[..., str]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that is loaded before all others and refuses every lock."""
    if shutil.which("cc") is None and not os.environ.get("CI"):
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("nolocks") / "nolocks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, Path(__file__).with_name("nolocks.c"), "-ldl"], check=True)
    return path


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Run:
    """Runs Python code where there are no locks; returns what it printed and logged."""

    def run(code: str, *, error: int = errno.ENOLCK, **more: str) -> str:
        there = {k: v for k, v in os.environ.items() if k != "HDF5_USE_FILE_LOCKING"}
        env = there | {"LD_PRELOAD": str(library), "NOLOCKS_ERRNO": str(error), **more}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_the_library_refuses_as_such_a_mount_does(run: Run, error: int) -> None:
    code = """
        import fcntl, h5py, sqlite3
        with open("x", "w") as file:
            for lock in (fcntl.flock, fcntl.lockf):
                try:
                    lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as e:
                    print(e.errno)
        try:
            sqlite3.connect("x.sqlite", timeout=0).execute("CREATE TABLE a (b)")
        except sqlite3.OperationalError as e:
            print("sqlite")
    """
    assert run(code, error=error).split() == [str(error), str(error), "sqlite"]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_the_memory_remembers_and_two_at_once_leave_a_good_one(run: Run, error: int) -> None:
    code = """
        import logging
        from pathlib import Path
        from pipeline.data.memory import Facts, Memory
        from pipeline.data.stamps import Stamp
        logging.basicConfig()
        stamp, facts, path = Stamp(1, 2, 3), Facts("f" * 64, 4, 5), Path("cache/files.sqlite")
        one, two = Memory(path), Memory(path)
        one.put([("/a", stamp, facts)])
        two.put([("/b", stamp, facts)])
        one.close()
        two.close()
        later = Memory(path)
        print(sorted(later.get({"/a": stamp, "/b": stamp})))
        later.close()
        next(Path("cache").iterdir()).write_bytes(b"no database at all" * 100)
        again = Memory(path)
        again.put([("/c", stamp, facts)])
        print(sorted(again.get({"/b": stamp, "/c": stamp})))
    """
    assert run(code, error=error).splitlines() == ["['/b']", "['/c']"]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_a_sound_shard_is_read_and_never_set_aside(run: Run, tmp_path: Path, error: int) -> None:
    code = """
        import numpy as np
        from pathlib import Path
        from pipeline.codes.store import Store
        from pipeline.base.errors import UserError
        digests = np.array([f"{n:064x}" for n in range(3)], dtype="S64")
        store = Store({"a": 1}, dim=2, dtype="float16", root=Path("cache"))
        store.append(digests, np.arange(6, dtype=np.float16).reshape(3, 2))
        try:
            print(store.read(digests).tolist())
        except UserError as e:
            print(e)
    """
    assert run(code, error=error) == "[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]\n"
    # HDF5 obeys its variable before anything else.
    assert "HDF5_USE_FILE_LOCKING=FALSE" in run(code, error=error, HDF5_USE_FILE_LOCKING="TRUE")
    assert not list(tmp_path.rglob("*.damaged"))


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_an_index_has_one_writer_at_a_time(run: Run, error: int) -> None:
    code = """
        from pathlib import Path
        from pipeline.base.errors import UserError
        from pipeline.search.lock import writing
        folder = Path("my.index")
        for _ in range(2):
            with writing(folder, make=True):
                try:
                    with writing(folder, make=False):
                        print("two writers")
                except UserError as e:
                    print(e)
    """
    lines = run(code, error=error).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "is being changed by process" in line and "remove my.index/.lock-held" in line


@pytest.mark.network
@pytest.mark.one_precision  # locks
def test_every_command_works(run: Run, tmp_path: Path) -> None:
    draw_classes(tmp_path / "photos", per_class=20)
    draw_classes(tmp_path / "more", per_class=1, seed=1)
    code = """
        import sys
        from pipeline.cli import main
        def command(line):
            sys.argv = ["cnncodes", *line.split()]
            try:
                main()
            except SystemExit as e:
                if e.code:
                    sys.exit(f"{line}: {e.code}")
            print("done:", line)
        small = "--arch tinyvgg --weights random:0"
        command(f"extract photos {small} --size 64 --layers conv5_3-avg,pool5-avg --out codes")
        command(f"extract photos {small} --size 64 --layers conv5_3-avg,pool5-avg --out codes")
        command("info codes")
        command("compare codes --heads softmax")
        command("export codes --layer pool5 --to npy --out pool5.npy")
        command("predict codes/heads/pool5-avg-softmax photos/red/0.png")
        command(f"index photos --out my.index {small} --size 64")
        command("search my.index photos/red/0.png -k 3")
        command("index add my.index more")
        command("search my.index more/red/0.png -k 3 --method cosine")
        command("index info my.index")
        command("index verify my.index")
        command("advise codes")
        command(f"advise photos {small} --size 64 --layers conv5_3-avg,pool5-avg")
    """
    said = run(code)
    assert said.count("done:") == 14
    assert "damaged" not in said and "can't be used" not in said
    assert not list(tmp_path.rglob("*.damaged")) and not list(tmp_path.rglob(".lock-held"))


def test_every_hdf5_file_is_opened_without_a_lock() -> None:
    """`h5py.File` of a path would lock it."""
    found = {
        f"{path.name}: {line.strip()}"
        for path in (Path(__file__).parent.parent / "pipeline").rglob("*.py")
        for line in path.read_text().splitlines()
        if "h5py.File(" in line
    }
    assert found == {
        "hdf5_files.py: return h5py.File(path, mode, locking=False, **settings)",
        'tried_hdf5.py: with h5py.File(source, "r", locking=False) as file:',
    }
