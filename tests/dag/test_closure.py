"""What decides what a stage does: against what Python itself imports, and what is left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import UserError
from pipeline.dag.closure import Closure
from tests.test_imports import ROOT

FILES = {
    "stages/__init__.py": "",
    "stages/_run.py": "def run(): ...\n",
    "stages/first.py": "from pipeline import config\nfrom stages._run import run\nimport pipeline.parts.one as one\n",
    "stages/second.py": "def main():\n    from pipeline import lazy_name\n    return lazy_name\nmain()\n",
    "stages/third.py": "import importlib\nimportlib.import_module('pipeline.parts.by_name')\n",
    "stages/fourth.py": "from pipeline.drawn.page import PAGE\n",
    "pipeline/__init__.py": "def __getattr__(name):\n    if name != 'lazy_name':\n        raise AttributeError(name)\n"
    "    from pipeline import lazy\n    return getattr(lazy, name)\n",
    "pipeline/config.py": "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    from pipeline.unused import Type\nelse:\n    from pipeline.used import Type\n",
    "pipeline/lazy.py": "lazy_name = 1\n",
    "pipeline/unused.py": "Type = int\n",
    "pipeline/used.py": "Type = int\n",
    "pipeline/parts/__init__.py": "",
    "pipeline/parts/one.py": "from . import two\nfrom .three import C\nfrom ..deep import D\n",
    "pipeline/parts/two.py": "",
    "pipeline/parts/three.py": "C = 1\n",
    "pipeline/parts/by_name.py": "",
    "pipeline/parts/data.txt": "read by nobody",
    "pipeline/deep/__init__.py": "D = 1\n",
    "pipeline/deep/never.py": "",
    "pipeline/drawn/__init__.py": "",
    "pipeline/drawn/page.py": "from pathlib import Path\nPAGE = (Path(__file__).parent / 'looks/a.css').read_text()\n",
    "pipeline/drawn/looks/a.css": "p {}",
    "pipeline/drawn/looks/.hidden": "",
    "pipeline/drawn/looks/a.css~": "",
    "pipeline/drawn/inner/__init__.py": "",
    "pipeline/drawn/inner/b.css": "of a package of its own",
}
INIT = {"stages/__init__.py", "pipeline/__init__.py"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def found(project: Path, stage: str) -> set[str]:
    return {path.as_posix() for path in Closure(project).files(stage)}


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        (
            "first",
            {"stages/_run.py", "pipeline/config.py", "pipeline/used.py", "pipeline/deep/__init__.py"}
            | {f"pipeline/parts/{name}.py" for name in ("__init__", "one", "two", "three")},
        ),
        ("second", {"pipeline/lazy.py"}),
        ("third", {"pipeline/parts/__init__.py", "pipeline/parts/by_name.py"}),
        ("fourth", {f"pipeline/drawn/{name}" for name in ("__init__.py", "page.py", "looks/a.css")}),
    ],
)
def test_the_files_are_those_that_python_runs(project: Path, stage: str, more: set[str]) -> None:
    expected = INIT | {f"stages/{stage}.py"} | more
    assert found(project, stage) == expected
    code = (
        f"import sys, stages.{stage}\n"
        "for m in sys.modules.values():\n    if getattr(m, '__file__', None): print(m.__file__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project)
    loaded = {Path(line) for line in out.stdout.splitlines()}
    ours = {p.relative_to(project).as_posix() for p in loaded if p.is_relative_to(project)}
    assert ours == {path for path in expected if path.endswith(".py")}


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ("pipeline/parts/three.py", {"first"}),
        ("pipeline/lazy.py", {"second"}),
        ("pipeline/drawn/looks/a.css", {"fourth"}),
        ("pipeline/__init__.py", {"first", "second", "third", "fourth"}),
        ("pipeline/unused.py", set()),
    ],
)
def test_a_changed_file_changes_the_digests_of_those_who_use_it(project: Path, changed: str, stages: set[str]) -> None:
    before = Closure(project)
    digests = {stage: before.digest(stage) for stage in before.stages}
    assert all(len(digest) == 32 for digest in digests.values()) and len(set(digests.values())) == 4
    with (project / changed).open("a") as f:
        f.write("\n")
    closure = Closure(project)
    assert {stage for stage in closure.stages if closure.digest(stage) != digests[stage]} == stages


def test_a_renamed_file_is_a_change(project: Path) -> None:
    before = Closure(project).digest("fourth")
    (project / "pipeline/drawn/looks/a.css").rename(project / "pipeline/drawn/looks/b.css")
    assert Closure(project).digest("fourth") != before


def test_errors_say_where(project: Path) -> None:
    (project / "pipeline/used.py").write_text("def\n")
    with pytest.raises(UserError, match=r"pipeline/used\.py is not Python: .* in line 1"):
        Closure(project).files("first")
    with pytest.raises(UserError, match="holds no scripts"):
        _ = Closure(project / "pipeline").stages


def test_nothing_heavy_is_loaded() -> None:
    """The stage that takes the digests is over before another would have loaded its libraries."""
    code = (
        "import sys, stages.code; print([m for m in ('torch', 'h5py', 'sklearn', 'faiss', 'dvc') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_templates_are_code_of_the_page_alone() -> None:
    closure = Closure(ROOT)
    templates = {p.relative_to(ROOT) for p in (ROOT / "pipeline/report/templates").iterdir()}
    assert templates
    for stage in closure.stages:
        assert templates & closure.files(stage) == (templates if stage == "report" else set())


def test_commands_and_the_web_page_are_code_of_no_stage() -> None:
    closure = Closure(ROOT)
    for stage in closure.stages:
        assert not {path.parts[1] for path in closure.files(stage) if len(path.parts) > 2} & {"cli", "web"}, stage
