"""What the machine refuses becomes one sentence that names the file, whichever library tells it."""

from __future__ import annotations

import ast
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.base.failing import place, reading, told

_HDF5 = "Can't synchronously write data (file write failed: time = x\n, filename = '/a/x.h5', file descriptor = 8, "


PIPELINE = Path(disk.__file__).parents[1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "the device failed"),
        (RuntimeError(_HDF5 + "errno = 5, error message = 'Input/output error')"), "/a/x.h5 was read or written"),
        (OSError("Unable to open file (unable to open file: name = 'b.h5', errno = 28, error message"), "b.h5"),
        (type("SafetensorError", (Exception,), {})("I/O error: No space left on device (os error 28)"), "no space"),
        (FileNotFoundError("No such file or directory: a/w.safetensors"), "a/w.safetensors does not exist"),
        (RuntimeError("unable to open file <a/w.bin> in read-only mode: Permission denied (13)"), "a/w.bin"),
        (MemoryError(), "not enough memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "not enough memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "not enough memory",
        ),
        (sqlite3.OperationalError("unable"), None),
        (ValueError("no"), None),
    ],
)
def test_the_sentence(error: Exception, said: str | None) -> None:
    found = told(error)
    assert (found is None) if said is None else (found is not None and said in str(found))


def test_the_place_of_an_error_that_names_none(tmp_path: Path) -> None:
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(OSError) as raised, place("outer"), place(tmp_path / "inner"):
        raise error
    assert raised.value is error, "whoever handles it sees it as it was"
    assert str(tmp_path / "inner") in str(told(error))


def test_of_two_names_that_of_what_is_made_is_told() -> None:
    assert "to.h5" in str(told(OSError(errno.ENOSPC, "x", "from.h5", None, "to.h5")))


def test_a_librarys_own_class_of_error_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        pass

    with (
        pytest.raises(UserError, match=r"no space left .*w\.safetensors"),
        disk.atomic_path(tmp_path / "w.safetensors"),
    ):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("named", "told_of"),
    [
        ("a/.x.json.ab01_cde.tmp.json", "a/x.json"),
        ("a/.my.index.ab01_cde.partial/index/.gen-000001/rows.h5", "a/my.index"),
        ("a/my.index/.gen-000002/files/.itq.h5.ab01_cde.tmp.h5", "a/my.index"),
        (".dataset.partial/manifest.csv", "dataset"),
        ("a/.tmpAb3dEf", "a"),
        ("a/.hidden/x", "a/.hidden/x"),
    ],
)
def test_a_temporary_name_stands_for_what_is_made(named: str, told_of: str) -> None:
    assert f"writing {told_of};" in str(told(OSError(errno.ENOSPC, "x", named)))


def test_a_read_that_fails_is_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").touch()
    with pytest.raises(OSError) as failed, reading(tmp_path / "w.bin"):
        raise OSError(errno.EIO, "Input/output error")  # as file.read() does
    assert f"the device failed while {tmp_path / 'w.bin'} was read" in str(told(failed.value))


def test_whatever_reads_an_open_file_says_which_one() -> None:
    """A read that the disk refuses names no file: each stands in a `with place(...)`, or in a `try` that says it.

    What a function `open` returns is read by who asked for it, and `tried_hdf5` reads what it takes of itself.
    """
    told = {"place", "reading", "atomic_path"}
    caught = {"OSError", "Exception", "BaseException", "_BROKEN"}
    bare = []
    for path in sorted({*PIPELINE.rglob("*.py")} - {PIPELINE / "base/tried_hdf5.py"}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        within: dict[ast.AST, list[ast.AST]] = {tree: []}
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                within[child] = [*within[node], node]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not _reads(node):
                continue
            if any(isinstance(above, ast.FunctionDef) and above.name == "open" for above in within[node]):
                continue
            names = {
                name.id
                for above in within[node]
                for part in (
                    [item.context_expr for item in above.items]
                    if isinstance(above, ast.With)
                    else [handler.type for handler in above.handlers if handler.type]
                    if isinstance(above, ast.Try)
                    else []
                )
                for name in ast.walk(part)
                if isinstance(name, ast.Name)
            }
            if not names & (told | caught):
                bare.append(f"{path.relative_to(PIPELINE)}:{node.lineno}")
    assert not bare, " ".join(bare)


def _reads(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    mode = any(isinstance(a, ast.Constant) and a.value == "rb" for a in call.args)
    return name in {"read_bytes", "read_text", "safe_open", "load_file"} or (name in {"open", "fdopen"} and mode)
