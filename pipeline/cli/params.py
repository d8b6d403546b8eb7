"""`cnncodes params convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.base.errors import UserError
from pipeline.cli.output import say
from pipeline.cli.shown import Command

params = typer.Typer(
    help="Bring params files up to date.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    app.add_typer(params, name="params")


@params.callback()
def group() -> None:
    """Bring params files up to date."""


@params.command(cls=Command)
def convert(
    old: Annotated[Path, typer.Argument(help="A params file from before there were presets.")],
    out: Annotated[Path, typer.Option(help="The new file.")],
) -> None:
    """Write an old params file as files are written now: a preset, keys in groups, and each value that differs from
    the preset's. No value changes.

    A line names each value that is left out because the preset has it too. Comments are left out. docs/params.md lists
    old name -> new name.
    """
    from pipeline.base import disk
    from pipeline.config.convert import convert as converted

    if out.exists():
        raise UserError(f"{out} is there already", allowed="--out with the name of a new file")
    done = converted(old)
    disk.write_text(out, done.text)
    for line in done.left_out:
        say(f"left out {line}")
    say(f"wrote {out}")
