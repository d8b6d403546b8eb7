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
    """Write a params file as it is written now: a preset, groups, and what differs from them. Values stay as they are.

    docs/params.md lists old name -> new name. Comments are not taken along.
    """
    from pipeline.base import disk
    from pipeline.config.convert import convert as converted

    if out.exists():
        raise UserError(f"{out} is there already", allowed="--out with the name of a new file")
    disk.write_text(out, converted(old))
    say(f"wrote {out}")
