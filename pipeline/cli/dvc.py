"""`cnncodes dvc write`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.base.errors import UserError
from pipeline.base.front import ExitCode
from pipeline.cli.output import say
from pipeline.cli.shown import Command

_FILE = Path("dvc.yaml")
dvc = typer.Typer(
    help="The file that says what DVC runs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    app.add_typer(dvc, name="dvc")


@dvc.callback()
def group() -> None:
    """The file that says what DVC runs."""


@dvc.command(cls=Command)
def write(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if it would change.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a dvc.yaml that was changed by hand.")] = False,
) -> None:
    """Write dvc.yaml of this project from its description of the stages, pipeline/dag/stages.py."""
    from pipeline.dag import dvc_yaml

    if not Path("stages").is_dir():
        raise UserError("the folder stages is not here", see="README.md, which starts in the project's folder")
    if check:
        if changes := dvc_yaml.differences(_FILE):
            say(changes.rstrip("\n"))
            raise typer.Exit(ExitCode.FOUND)
        say("dvc.yaml is what `cnncodes dvc write` makes")
        return
    dvc_yaml.write(_FILE, replace=replace)
    say(f"wrote {_FILE}")
