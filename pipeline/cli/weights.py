"""`cnncodes weights ...`: what weights files hold, and the way to the one format that extraction reads."""

from __future__ import annotations

import typer

weights = typer.Typer(
    help="Look into weights files, compare them, and convert them to the format that extraction reads.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Adds the group of commands; another module adds its own to `weights`."""
    app.add_typer(weights, name="weights")


@weights.callback()
def _group() -> None:
    """Keeps the group a group, however few commands it has."""
