"""Presets and groups where they meet the rest: DVC's and the commands' -S, stages, and files of before."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides

from pipeline.base.errors import UserError
from pipeline.config import (
    PRESET_SECTIONS,
    CodesParams,
    FinetuneParams,
    assigned,
    load,
    load_all,
    preset_values,
    validate,
)
from pipeline.config.convert import convert
from pipeline.config.layout import groups_of
from pipeline.workspace import preset
from tests import yaml_files
from tests.cli.test_search import run

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests/config/old_params.yaml"
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[list[str]]:
    """The `key=value` of every -S of each DVC command in the documents, also where a command goes over a line."""
    found = []
    for path in TEXTS:
        for command in re.findall(r"dvc exp run((?:\s+-S\s+(?:'[^']+'|[^\s`']+))+)", path.read_text()):
            found.append([quoted or plain for quoted, plain in re.findall(r"-S\s+(?:'([^']+)'|([^\s`']+))", command)])
    return found


def test_the_documents_set_keys() -> None:
    keys = {text.partition("=")[0] for command in commands() for text in command}
    assert {"dataset.source", "dataset.train", "heads.fit.scaling", "codes.image.crop", "codes.image.scales"} <= keys


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_dvc_sets_what_the_documents_set(command: list[str], tmp_path: Path) -> None:
    """DVC refuses a key that doesn't stand in the file."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_overrides(path, command)
    load_all(path)
    for text in command:
        key, _, wanted = text.partition("=")
        value = yaml_files.load(path)
        for name in key.split("."):
            value = value[name]
        assert str(value).replace("'", "") == wanted


def test_dvc_refuses_a_key_that_does_not_stand(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(InvalidArgumentError):
        apply_overrides(path, ["codes.image.croop=128"])


# ---- what DVC notices


def test_a_stage_depends_on_which_preset_it_is() -> None:
    """Another one changes values that no group of the file holds, and no file of the code."""
    stages = yaml_files.load(ROOT / "dvc.yaml")["stages"]
    read = {name: [p for p in spec.get("params", []) if isinstance(p, str)] for name, spec in stages.items()}
    assert [name for name, params in read.items() if params and "preset" not in params] == []
    assert len([name for name, params in read.items() if params]) > 8


def test_a_preset_is_code_of_the_stages_that_read_params() -> None:
    from pipeline.dag.closure import Closure

    closure = Closure(ROOT)
    for stage in ("dataset", "weights", "codes", "heads", "retrieval", "finetune", "sanity", "tuned", "figures"):
        assert Path("pipeline/config/presets/demo.yaml") in closure.files(stage), stage


# ---- -S of commands


@pytest.mark.parametrize(
    "text", ["finetune.optimiser=sgd", "codes.image=96", "codes.image={corp: 3}", "heads.fit=[1]", "codes.compute="]
)
def test_a_group_is_not_set_to_what_it_does_not_have(text: str) -> None:
    with pytest.raises(UserError, match=rf"-S {text.partition('=')[0]}.*allowed: "):
        assigned([text], PRESET_SECTIONS)


@pytest.mark.parametrize("section", ["codes", "heads", "retrieval", "finetune", "sanity"])
def test_every_key_of_a_group_can_be_set(section: str) -> None:
    model, values = PRESET_SECTIONS[section], preset_values()[section]
    for group, one in groups_of(model).items():
        for key, field in one.keys.items():
            text = f"{section}.{group}.{key}={json.dumps(values[field])}"
            assert assigned([text], PRESET_SECTIONS) == {section: {field: values[field]}}


# ---- files


def test_who_changes_the_values_of_a_preset_changes_them_for_nobody_else() -> None:
    before = preset_values()
    before["finetune"]["strategies"]["frozen"]["kind"] = "fc"
    before["codes"]["layers"].append("pool1-avg")
    assert preset_values()["finetune"]["strategies"]["frozen"] == {"kind": "frozen"}
    assert "pool1-avg" not in preset_values()["codes"]["layers"]


def test_what_only_the_base_has_is_no_key_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("preset: base\nfinetune:\n  kinds: {frozen: {augment: [flip]}}\n")
    with pytest.raises(UserError, match=r"kinds: unknown key"):
        load(FinetuneParams, path)


@pytest.mark.parametrize("text", ["{kind: frozn}", "{}", "{kind: [frozen]}"])
def test_a_wrong_kind_is_the_one_mistake(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"preset: base\nfinetune: {{strategies: {{mine: {text}}}}}\n")
    with pytest.raises(UserError, match=r"finetune has 1 problem: strategies.mine.kind"):
        load(FinetuneParams, path)


def test_a_strategy_that_there_is_none_of() -> None:
    with pytest.raises(UserError, match=r"unknown strategy 'mine'; allowed: direct, frozen"):
        preset(FinetuneParams).of("mine")


def test_a_file_of_before_with_one_section_is_converted(tmp_path: Path) -> None:
    """Commands took one."""
    whole = yaml_files.load(OLD)
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(yaml_files.dump({"finetune": whole["finetune"]}))
    new.write_text(convert(old).text)
    made, want = load(FinetuneParams, new), validate(FinetuneParams, whole["finetune"], where="")
    assert made.model_copy(update={"strategies": want.strategies}) == want
    assert made.strategies.items() >= want.strategies.items()
    assert load(CodesParams, new) == preset(CodesParams)


def test_a_file_of_before_is_converted_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.yaml"
    assert run(["params", "convert", str(OLD), "--out", str(new)]) == 0
    assert load_all(new).keys() == load_all(ROOT / "params.yaml").keys()
    said = capsys.readouterr()
    assert "left out codes.image.flip: false, as the preset base has it\n" in said.out + said.err
    assert run(["params", "convert", str(OLD), "--out", str(new)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["params", "convert", str(new), "--out", str(tmp_path / "newer.yaml")]) == 2
    assert "there is nothing to convert" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("finetune", "--out", "out"), ("lr-find",), ("sanity",)])
def test_commands_refuse_a_file_of_before(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    name, *options = command
    assert run([name, "photos", *options, "--params", str(OLD)]) == 2
    told = capsys.readouterr().err.strip()
    assert f"`cnncodes params convert {OLD} --out NEW.yaml`" in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("stage", ["code", "weights", "report"])
def test_stages_refuse_a_file_of_before(stage: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(OLD.read_text())
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "`cnncodes params convert params.yaml --out NEW.yaml`" in done.stderr
