"""dvc.yaml: every stage's deps cover all that its script imports, and its names follow the one rule."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import SECTIONS
from tests import yaml_files
from tests.test_imports import ROOT, imported

# Stages without a section of their own, and one whose keys are among their params.
SECTION = {"names": "heads", "digests": "dataset", "figures": "report"}
# It draws what another stage computed by its section.
DRAWS = "report"
STAGES: dict[str, dict[str, Any]] = yaml_files.load(ROOT / "dvc.yaml")["stages"]


def module_files(name: str) -> set[Path]:
    """The files that importing a dotted name runs: its module and the `__init__` of each package above."""
    found: set[Path] = set()
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:i])
        found |= {p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()}
    return found


def closure(script: Path) -> set[Path]:
    """Every file of this project that running a script can import."""
    seen: set[Path] = set()
    todo = {script, ROOT / "stages/__init__.py"}
    while todo:
        path = todo.pop()
        seen.add(path)
        if path == ROOT / "pipeline/__init__.py":
            continue  # its names are loaded only when someone asks for them, and no stage does
        for name in imported(path):
            if name.split(".")[0] in ("pipeline", "stages"):
                todo |= module_files(name) - seen
    return seen


def results(stage: str) -> list[str]:
    """The paths of a stage's outs, metrics and plots."""
    kinds = (STAGES[stage].get(key, []) for key in ("outs", "metrics", "plots"))
    return [o if isinstance(o, str) else next(iter(o)) for kind in kinds for o in kind]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_imports(stage: str) -> None:
    deps = [ROOT / d for d in STAGES[stage]["deps"] if "${" not in d]
    for path in closure(ROOT / f"stages/{stage}.py"):
        assert any(path == d or d in path.parents for d in deps), f"{stage}: {path.relative_to(ROOT)} is no dep"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_exist(stage: str) -> None:
    for dep in STAGES[stage]["deps"]:
        if "${" not in dep and not dep.startswith("out/"):
            assert (ROOT / dep).exists(), f"{stage}: dep {dep} is not there"


@pytest.mark.parametrize("stage", STAGES)
def test_no_value_of_params_is_pasted_into_a_command(stage: str) -> None:
    """A shell would read it: `topk50-pool5-avg; rm -r ~` is a value too."""
    assert "${" not in STAGES[stage]["cmd"]


@pytest.mark.parametrize("stage", STAGES)
def test_names_follow_the_rule(stage: str) -> None:
    """Stage name = script = section of params.yaml = folder under out/."""
    spec = STAGES[stage]
    section = SECTION.get(stage, stage)
    assert section in SECTIONS
    assert (ROOT / f"stages/{stage}.py").is_file()
    assert spec["cmd"].startswith(f"python -m stages.{stage}")
    assert stage == DRAWS or any(p.split(".")[0] == section for p in spec["params"])
    outs = results(stage)
    assert outs and all(o.split("/")[:2] == ["out", stage] for o in outs)


def test_every_shipped_param_is_a_param_of_some_stage() -> None:
    """A key that no stage lists would change results without a rerun."""
    listed = {p for spec in STAGES.values() for p in spec.get("params", [])}
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            matrixed = any(f"${{{section}.{key}}}" in str(spec.get("matrix")) for spec in STAGES.values())
            by_item = any(p.startswith(f"{section}.{key}.${{item.") for p in listed)
            assert section in listed or f"{section}.{key}" in listed or matrixed or by_item, f"{section}.{key}"


def test_the_page_depends_on_the_figures_alone() -> None:
    """What draws is code of no other stage, so that a change of the page's look reruns `report` and nothing else."""
    spec = STAGES[DRAWS]
    assert [d for d in spec["deps"] if d.startswith("out/")] == ["out/figures"] and "params" not in spec
    drawn = {d for d in spec["deps"] if d.startswith("pipeline/report")}
    assert drawn == {"pipeline/report"}
    assert [stage for stage, other in STAGES.items() if drawn & set(other["deps"])] == [DRAWS]


def test_only_the_digests_depend_on_the_photographs() -> None:
    assert [stage for stage, spec in STAGES.items() if "${dataset.root}" in spec["deps"]] == ["digests"]
    assert "out/digests/files.csv" in STAGES["dataset"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_refuses_results_elsewhere(stage: str) -> None:
    """It would remove what is at the place that a name of params.yaml with `..` in it leads to."""
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    named = {path.rpartition("/")[2] for path in results(stage) if "${" in path}
    assert named <= set(lines), f"{named - set(lines)} must stand in .dvcignore"
    assert lines[-1] == "!/out/**"
    assert not named or "out/names/checked.txt" in STAGES[stage]["deps"], "which refuses such a name first"


@pytest.fixture
def ignored(tmp_path: Path) -> Callable[[str], bool]:
    """Whether git ignores a path of a copy of the project."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    asked = ["git", "check-ignore", "-q", "--no-index"]
    return lambda path: subprocess.run([*asked, path], cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize(
    "path", ["a.jpg", "photos/a.JPG", "photos/cat/a", "docs/a.heic", "stages/x/train.h5", "tests/a.webp", "a.hdf5"]
)
def test_git_ignores_photographs_wherever_they_lie(path: str, ignored: Callable[[str], bool]) -> None:
    assert ignored(path)


def test_git_ignores_nothing_of_the_project(ignored: Callable[[str], bool]) -> None:
    folders = ("bench", "docs", "experiments", "pipeline", "stages", "tests")
    suffixes = {p.suffix for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()} - {
        ".pyc",
        ".nbc",
        ".nbi",
        ".png",
        ".json",
        ".gz",
        "",
    }
    top = (".ci/run", ".dvc/config", ".dvcignore", ".gitignore", "LICENSE", "Makefile", "NOTICE", "dvc.lock")
    golden = [p.relative_to(ROOT).as_posix() for s in ("json", "gz") for p in (ROOT / "tests").rglob(f"*.{s}")]
    assert golden and not [
        p
        for p in (*top, *golden, "stages/no-folder", "docs/pictures/new.png", *(f"docs/new{s}" for s in suffixes))
        if ignored(p)
    ]
