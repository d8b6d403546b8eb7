"""Which files of this project decide what a stage does: its script, all that this imports, and the data beside these.

Modules are parsed and never imported, so that nothing heavy is loaded. An import counts wherever it stands in a
module: in a function too, but not where only a type checker looks. So does any text in quotes that is the full name of
a module of ours, which may be imported by that name or run by `python -m`. Imports in a package's `__getattr__` count
for a module that imports from the package a name that is not one of its modules.

A module that says `__file__`, or imports `importlib.resources`, reads data beside it: all files of its package that
are not Python's belong to it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.base.errors import UserError
from pipeline.base.failing import reading

# Top-level packages of the project.
PACKAGES = ("pipeline", "stages")
_QUOTED = re.compile(rf"""["']((?:{"|".join(PACKAGES)})(?:\.\w+)+)["']""")
_READS_DATA = re.compile(r"\b__file__\b|\bimportlib\.resources\b|\bimportlib import resources\b")
_DIGITS = 32  # of a digest: 128 bits


@dataclass(frozen=True)
class _Module:
    """What a file of Python imports, of us: at any time, and only when its `__getattr__` is called.

    A pair is a file, and whether its `__getattr__` is called.
    """

    always: frozenset[tuple[Path, bool]]
    on_request: frozenset[tuple[Path, bool]]
    reads_data: bool


class Closure:
    """The files below `root`, the project's folder, that decide what a stage does. Each is read and parsed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._modules: dict[Path, _Module] = {}
        self._sha256: dict[Path, bytes] = {}

    @cached_property
    def stages(self) -> list[str]:
        """Names of the scripts in stages/, sorted. Raises UserError if there are none."""
        found = sorted(p.stem for p in self._python if p.parts[0] == "stages" and not p.stem.startswith("_"))
        if not found:
            raise UserError(f"{self._root / 'stages'} holds no scripts", see="README.md: start in the project's folder")
        return found

    def files(self, stage: str) -> set[Path]:
        """All files that decide what `stages/<stage>.py` does, relative to the project's folder.

        Raises UserError if one of them is not Python.
        """
        seen: set[tuple[Path, bool]] = set()
        todo = set(self._run_by(f"stages.{stage}"))
        while todo:
            path, on_request = one = todo.pop()
            seen.add(one)
            module = self._module(path)
            todo |= (module.on_request if on_request else module.always) - seen
        paths = {path for path, _ in seen}
        return paths | {data for path in paths if self._module(path).reads_data for data in self._data(path.parent)}

    def digest(self, stage: str) -> str:
        """32 hex digits of the names and contents of all files that decide what a stage does."""
        digest = hashlib.sha256()
        for path in sorted(self.files(stage)):
            if path not in self._sha256:
                with reading(self._root / path) as file:
                    self._sha256[path] = hashlib.file_digest(file, "sha256").digest()
            digest.update(path.as_posix().encode() + b"\0" + self._sha256[path])
        return digest.hexdigest()[:_DIGITS]

    @cached_property
    def _python(self) -> set[Path]:
        return {path.relative_to(self._root) for top in PACKAGES for path in (self._root / top).rglob("*.py")}

    def _run_by(self, name: str) -> Iterator[tuple[Path, bool]]:
        """The files that importing a dotted name runs: its module and the `__init__` of each package above it.

        True beside the file of a package whose `__getattr__` is asked, since the name is not one of its modules.
        """
        here = Path()
        for part in name.split("."):
            package = here / "__init__.py"
            here /= part
            found = [p for p in (here.with_suffix(".py"), here / "__init__.py") if p in self._python]
            if not found:
                if package in self._python:
                    yield package, True
                return
            yield from ((path, False) for path in found)

    def _module(self, path: Path) -> _Module:
        if path not in self._modules:
            with reading(self._root / path) as file:
                text = file.read().decode("utf-8")
            try:
                body = ast.parse(text).body
            except SyntaxError as e:
                raise UserError(f"{path} is not Python: {e.msg} in line {e.lineno}") from None
            lazy = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == "__getattr__"]
            always = {*_imported((n for n in body if n not in lazy), path.parent), *_QUOTED.findall(text)}
            self._modules[path] = _Module(
                always=frozenset(run for name in always for run in self._run_by(name)),
                on_request=frozenset(run for name in _imported(lazy, path.parent) for run in self._run_by(name)),
                reads_data=bool(_READS_DATA.search(text)),
            )
        return self._modules[path]

    def _data(self, package: Path) -> Iterator[Path]:
        """Files of a package that are not Python's, in folders that are no packages of their own."""
        for path in (self._root / package).iterdir():
            if path.name.startswith((".", "__pycache__")) or path.name.endswith("~"):
                continue
            if path.is_dir():
                if not (path / "__init__.py").is_file():
                    yield from self._data(package / path.name)
            elif path.suffix not in (".py", ".pyc"):
                yield package / path.name


def _imported(statements: Iterable[ast.stmt], package: Path) -> Iterator[str]:
    """Dotted names of our modules, and of what is imported from them, in statements of a module of `package`."""
    todo: list[ast.AST] = list(statements)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.parts[: len(package.parts) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            named = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            todo += node.orelse
            continue
        else:
            # Statements alone: an expression holds no import.
            todo += [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.expr)]
            continue
        yield from (name for name in named if name.split(".")[0] in PACKAGES)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
