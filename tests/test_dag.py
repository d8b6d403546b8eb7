"""dvc.yaml: it is what `cnncodes dvc write` makes, each stage reruns with its code, and names follow the one rule."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import SECTIONS
from pipeline.config.layout import path_of
from pipeline.dag import dvc_yaml
from pipeline.dag.closure import Closure
from tests import yaml_files
from tests.test_imports import ROOT

# Stages without a section of their own, and one whose keys are among their params.
SECTION = {"code": "heads", "digests": "dataset", "figures": "report"}
# It draws what another stage computed by its section.
DRAWS = "report"
STAGES: dict[str, dict[str, Any]] = yaml_files.load(ROOT / "dvc.yaml")["stages"]
# Those that rerun with their code by a param of their own; the first has all sources for deps.
CODED = [stage for stage in STAGES if stage != "code"]


def results(stage: str) -> list[str]:
    """The paths of a stage's outs, metrics and plots."""
    kinds = (STAGES[stage].get(key, []) for key in ("outs", "metrics", "plots"))
    return [o if isinstance(o, str) else next(iter(o)) for kind in kinds for o in kind]


def own_params(stage: str) -> list[str]:
    """A stage's params in params.yaml."""
    return [p for p in STAGES[stage]["params"] if isinstance(p, str)]


def test_dvc_yaml_is_what_write_makes() -> None:
    assert dvc_yaml.differences(ROOT / "dvc.yaml") == ""


def test_ls_stages_is_the_dag() -> None:
    assert set(STAGES) == set(Closure(ROOT).stages)


@pytest.mark.parametrize("stage", CODED)
def test_a_stage_reruns_with_its_code_and_after_names_were_checked(stage: str) -> None:
    """Its key of out/code.json is both: stage `code` refuses a wrong params.yaml before there is such a file."""
    assert {"out/code.json": [stage]} in STAGES[stage]["params"]


def test_sources_are_deps_of_the_first_stage_alone() -> None:
    """DVC would hash each of them once a stage and item."""
    assert STAGES["code"]["deps"] == ["pipeline", "stages"]
    for stage in CODED:
        assert all(dep.startswith(("out/", "${")) for dep in STAGES[stage]["deps"]), stage


def test_all_sections_are_checked_before_dvc_makes_way_for_what_they_name() -> None:
    """All are params of the first stage, so that whatever changes is looked at first."""
    assert own_params("code") == ["preset", *SECTIONS]


@pytest.mark.parametrize("stage", STAGES)
def test_no_value_of_params_is_pasted_into_a_command(stage: str) -> None:
    """A shell would read it: `topk50-pool5-avg; rm -r ~` is a value too."""
    assert "${" not in STAGES[stage]["cmd"]


@pytest.mark.parametrize("stage", STAGES)
def test_names_follow_the_rule(stage: str) -> None:
    """Stage name = script = section of params.yaml = folder under out/."""
    section = SECTION.get(stage, stage)
    assert section in SECTIONS
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    assert stage == DRAWS or any(p.split(".")[0] == section for p in own_params(stage))
    outs = results(stage)
    assert outs and all(o.split("/")[:2] == ["out", stage] or o == f"out/{stage}.json" for o in outs)


def test_every_shipped_param_is_a_param_of_some_stage() -> None:
    """A key that no stage lists would change results without a rerun."""
    listed = {p for stage in CODED for p in own_params(stage)}
    for section, model in SECTIONS.items():
        for field in model.model_fields:
            key = path_of(model, field)
            above = [section, f"{section}.{key.partition('.')[0]}", f"{section}.{key}"]
            matrixed = any(f"${{{section}.{key}}}" in str(spec.get("matrix")) for spec in STAGES.values())
            by_item = any(p.startswith(f"{section}.{key}.${{item.") for p in listed)
            assert listed & set(above) or matrixed or by_item, f"{section}.{key}"


def test_the_page_depends_on_the_figures_alone() -> None:
    """What draws is code of no other stage, so that a change of the page's look reruns `report` and nothing else."""
    assert STAGES[DRAWS]["deps"] == ["out/figures"] and not own_params(DRAWS)
    closure = Closure(ROOT)
    drawing = {stage for stage in STAGES if any(p.parts[:2] == ("pipeline", "report") for p in closure.files(stage))}
    assert drawing == {DRAWS}


def test_the_photographs_are_not_listed_again_for_code_of_what_comes_later() -> None:
    packages = {p.parts[1] for p in Closure(ROOT).files("dataset") if p.parts[0] == "pipeline"}
    later = {"nets", "codes", "heads", "hashing", "index", "finetune", "sections.py"}
    assert not later & packages


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
    earlier = {
        "out/code.json": json.dumps(dict.fromkeys(STAGES, "0")),
        ".dvc/config": "[core]\n    no_scm = True\n    analytics = false\n",
    }
    for path, text in earlier.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    shipped = yaml_files.params(ROOT / "params.yaml")
    strategies = {**shipped["finetune"]["strategies"], name: shipped["finetune"]["strategies"]["frozen"]}
    changes: dict[str, dict[str, object]] = {
        "finetune": {"run": [name], "strategies": strategies},
        "sanity": {"strategies": [name]},
    }
    for stage, values in changes.items():
        params = shipped | {stage: shipped[stage] | values}
        (tmp_path / f"params-{stage}.yaml").write_text(yaml_files.dump_params(params))
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
