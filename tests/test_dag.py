"""dvc.yaml: every stage's deps cover all that its script imports, and its names follow the one rule."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


def test_the_photographs_are_not_listed_again_for_code_of_what_comes_later() -> None:
    later = {f"pipeline/{name}" for name in ("nets", "codes", "heads", "hashing", "index", "finetune", "sections.py")}
    assert not later & set(STAGES["dataset"]["deps"])
    assert "out/names/checked.txt" in STAGES["dataset"]["deps"], "which refuses a wrong params.yaml first"


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


@pytest.mark.parametrize("stage", STAGES)
def test_a_name_in_a_path_has_to_be_plain(stage: str) -> None:
    """DVC reads a file of the folder that a stage runs in before it does anything; a name that leads out finds none."""
    named = {path.removeprefix(f"out/{stage}/").rpartition("/")[0] for path in results(stage) if "${" in path}
    assert len(named) < 2
    for name in named:
        assert STAGES[stage]["wdir"] == f"{name}/.." and STAGES[stage]["vars"] == ["stages/plain-names.yaml"]


# With each file of params in turn, in one process, as DVC takes seconds to begin. Prints why DVC did not run.
ASK = """
import shutil, sys
from pathlib import Path
from dvc.repo import Repo

for params in sorted(Path("..").glob("params-*.yaml")):
    shutil.copy(params, "params.yaml")
    for how in ({"force": True, "on_error": "ignore"}, {"targets": [params.stem[7:]], "single_item": True}):
        try:
            Repo().reproduce(**how)
            print(params, how)
        except Exception as e:
            print(e)
"""


def test_dvc_removes_nothing_above_the_project_whatever_it_is_asked(tmp_path: Path) -> None:
    """In a folder without git, where an earlier run with other names went well."""
    folder, name = tmp_path / "project", "x/../../../../victim"
    shutil.copytree(ROOT / "stages", folder / "stages")
    for file in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / file, folder)
    for made in (folder / "out/names/checked.txt", folder / ".dvc/config"):
        made.parent.mkdir(parents=True)
        made.write_text("[core]\n    no_scm = True\n    analytics = false\n" if made.name == "config" else "checked\n")
    shipped = yaml_files.load(ROOT / "params.yaml")
    strategies = {**shipped["finetune"]["strategies"], name: shipped["finetune"]["strategies"]["frozen"]}
    changes: dict[str, dict[str, object]] = {
        "finetune": {"run": [name], "strategies": strategies},
        "heads": {"heads": [f"x/../{name}"]},
        "retrieval": {"specs": [name]},
        "sanity": {"strategies": [name]},
    }
    for stage, values in changes.items():
        params = shipped | {stage: shipped[stage] | values}
        (tmp_path / f"params-{stage}.yaml").write_text(yaml_files.dump(params))
    outs = {path.rpartition("/")[2] for stage in STAGES for path in results(stage) if "${" in path}
    victims = [tmp_path / "victim" / out for out in sorted(outs)]
    victims[0].parent.mkdir()
    for victim in victims:
        victim.write_text("precious")
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, cwd=folder, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(changes) and all("plain-names.yaml' does not exist" in line for line in lines), lines
    assert all(victim.is_file() for victim in victims)


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
