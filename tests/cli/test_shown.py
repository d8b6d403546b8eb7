"""Choices and defaults in `--help`: of the models of `config` and the preset."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import shown
from pipeline.cli.app import app
from pipeline.cli.index import SHORT_HASHERS
from pipeline.collection.methods import LONG_HASHERS
from pipeline.config import HASHER_NUMBERS

GROUP = typer.main.get_command(app)


def help_of(command: str) -> str:
    """On one line, without the frame that it is printed in."""
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert done.exit_code == 0, done.output
    return " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("finetune.optimiser.kind", "sgd | adam | adamw | rmsprop | adagrad | lbfgs. Default: adam."),
        ("finetune.optimiser.schedule.kind", "constant | step | linear | cosine | inverse_sqrt. Default: cosine."),
        ("finetune.loop.epochs", "Default: 10."),
        ("finetune.loop.inference_txt", "Default: no."),
        ("finetune.run", "Default: frozen,finetune,scratch."),
        ("heads.fit.c_grid", "Default: 0.01,0.1,1,10,100."),
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
    assert (
        shown.filled("For new layers. {finetune.optimiser.learning_rate} Else.")
        == "For new layers. Default: 0.001. Else."
    )
    assert shown.filled("As {it} is.") == "As {it} is."
    with pytest.raises(KeyError):
        shown.filled("{finetune.optimizer}")


def test_nothing_is_looked_up_before_a_help_text_is_printed() -> None:
    code = "import sys, pipeline.cli; print([m for m in ('pydantic', 'pipeline.config') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def commands(group: Any = GROUP, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command by its whole name, `weights convert`."""
    found = {}
    for name, one in group.commands.items():
        inner = hasattr(one, "commands")
        found |= commands(one, (*above, name)) if inner else {" ".join((*above, name)): one}
    return found


def needs_no_word(option: Any) -> bool:
    """A switch is off, and a file or folder that is not named is neither read nor written."""
    return option.required or bool(option.is_flag) or "Path" in str(option.type_descriptor.annotation)


@pytest.mark.parametrize("command", commands())
def test_every_option_says_its_choices_or_its_default(command: str) -> None:
    """Or what is done without it."""
    text = help_of(command)
    assert not re.search(r"\{\w+\.", text)
    for option in commands()[command].params:
        if option.param_type_name != "option" or needs_no_word(option):
            continue
        if option.default in (None, ""):
            assert re.search(r"Default: |if not given", shown.filled(option.help)), option.name
        else:
            assert f"default: {option.default}" in text, option.name


def test_devices_and_precisions_can_be_named_wherever_a_network_runs() -> None:
    run = ["extract", "finetune", "lr-find", "sanity", "predict", "index build", "index add", "search", "serve"]
    for command in [*run, "advise", "weights reference"]:
        options = {option for param in commands()[command].params for option in param.opts}
        assert {"--device", "--precision"} <= options, command
        text = help_of(command)
        assert "auto | cpu | cuda | mps" in text and "auto | fp32 | bf16" in text, command


def test_the_short_and_long_codes_that_are_named_are_all_there_are() -> None:
    assert set(SHORT_HASHERS) == {name for name, number in HASHER_NUMBERS.items() if number == "nbits"}
    assert " | ".join(LONG_HASHERS) in help_of("index build")
