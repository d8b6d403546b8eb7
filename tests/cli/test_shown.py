"""Choices and defaults in `--help`: of the models of `config` and the preset."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import shown
from pipeline.cli.app import app

GROUP = typer.main.get_command(app)


def help_of(command: str) -> str:
    """On one line, without the frame that it is printed in."""
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert done.exit_code == 0, done.output
    return " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("finetune.optimiser", "sgd | adam | adamw | rmsprop | adagrad | lbfgs. Default: adam."),
        ("finetune.schedule.kind", "constant | step | linear | cosine | inverse_sqrt. Default: cosine."),
        ("finetune.epochs", "Default: 10."),
        ("finetune.inference_txt", "Default: no."),
        ("finetune.run", "Default: frozen,finetune,scratch."),
        ("heads.c_grid", "Default: 0.01,0.1,1,10,100."),
        ("dataset.leave_out", "Default: none."),
    ],
)
def test_a_key_gives_its_choices_and_its_default(key: str, said: str) -> None:
    assert shown.said(key) == said


def test_names_to_choose_from() -> None:
    assert shown.said("finetune.strategies").startswith("direct | frozen | ")
    assert " | vgg16 | " in shown.said("weights.arch")
    assert shown.said("heads.heads").startswith("svm | ")


def test_a_key_stands_where_its_choices_should() -> None:
    assert shown.filled("Of new layers. {finetune.learning_rate} Else.") == "Of new layers. Default: 0.001. Else."
    assert shown.filled("As {it} is.") == "As {it} is."
    with pytest.raises(KeyError):
        shown.filled("{finetune.optimizer}")


def test_nothing_is_looked_up_before_a_help_text_is_printed() -> None:
    code = "import sys, pipeline.cli; print([m for m in ('pydantic', 'pipeline.config') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["finetune", "lr-find", "sanity"])
def test_every_option_says_its_default(command: str) -> None:
    """Or that it has none: a switch that is off, a file to write, what is repeated."""
    text = help_of(command)
    assert not re.search(r"\{\w+\.", text)
    for param in GROUP.commands[command].params:  # type: ignore[attr-defined]
        if param.param_type_name == "option" and param.default is None and not param.required:
            assert re.search(r"Default: |if not given|--help", shown.filled(param.help)), param.name
