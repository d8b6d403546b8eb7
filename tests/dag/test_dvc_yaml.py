"""`cnncodes dvc write`: what it makes says what the description says, and what a user changed is not lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.base.errors import UserError
from pipeline.cli.app import app
from pipeline.dag import dvc_yaml
from pipeline.dag.stages import METRICS, PLOTS, STAGES, Stage
from tests import yaml_files


def run(*arguments: str, code: int = 0) -> str:
    """What the command prints. A UserError comes through, for `main` to say."""
    result = CliRunner().invoke(app, ["dvc", "write", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stages").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dvc.yaml"


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml_files.load(path)
    return values


def test_what_is_written_is_what_is_described(project: Path) -> None:
    assert "wrote dvc.yaml" in run()
    written = read(project)
    assert list(written["stages"]) == [stage.name for stage in STAGES]
    for stage in STAGES:
        entry = written["stages"][stage.name]
        assert entry["cmd"] == f"python -m stages.{stage.name}"
        assert entry["deps"] == list(stage.deps)
        coded = [{"out/code.json": [stage.name]}] if stage.coded else []
        preset = ["preset"] if stage.params else []
        assert entry["params"] == [*coded, *preset, *stage.params]
        outs = [{out: {"persist": True}} for out in stage.outs] if stage.persist else list(stage.outs)
        assert entry["outs"] == outs
        assert entry.get("plots", []) == [{path: dict(drawn)} for path, drawn in stage.plots.items()]
        assert entry.get("matrix", {}) == {key: f"${{{listed}}}" for key, listed in stage.matrix.items()}
    assert written["metrics"] == list(METRICS)
    plots = [{p.title: {"template": p.template, "x": p.x, "y": {p.file: p.y}}} for p in PLOTS]
    assert written["plots"] == plots
    assert len(project.read_text().splitlines()) <= 280


def test_a_stage_more_is_one_entry(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = Stage("more", "Computes.", deps=("out/heads",), params=("report",), outs=("out/more",))
    monkeypatch.setattr(dvc_yaml, "STAGES", (*STAGES, more))
    run()
    assert read(project)["stages"]["more"] == {
        "cmd": "python -m stages.more",
        "deps": ["out/heads"],
        "params": [{"out/code.json": ["more"]}, "preset", "report"],
        "outs": ["out/more"],
    }


def test_check_shows_what_differs_and_writes_nothing(project: Path) -> None:
    assert "+  heads:" in run("--check", code=1) and not project.exists()
    run()
    assert "is what" in run("--check")
    changed = project.read_text().replace("cmd: python -m stages.heads", "cmd: python -m stages.mine")
    project.write_text(changed)
    said = run("--check", code=1)
    assert "-    cmd: python -m stages.mine" in said and "+    cmd: python -m stages.heads" in said
    assert project.read_text() == changed


@pytest.mark.parametrize("there", ["stages: {}\n", "", "\xff"])
def test_what_someone_else_wrote_is_kept_unless_asked(there: str, project: Path) -> None:
    project.write_bytes(there.encode("latin-1"))
    with pytest.raises(UserError, match=r"was not made by .* --replace"):
        run()
    assert project.read_bytes() == there.encode("latin-1")
    run("--replace")
    assert project.read_text() == dvc_yaml.text()


def test_an_edit_is_kept_and_what_another_version_wrote_is_not(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(dvc_yaml, "STAGES", STAGES[:3])
        run()
    assert len(read(project)["stages"]) == 3
    run()
    project.write_text(project.read_text() + "\nartifacts: {}\n")
    with pytest.raises(UserError, match="changed since"):
        run()


def test_elsewhere_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the folder stages is not here"):
        run()
    assert not (tmp_path / "dvc.yaml").exists()
