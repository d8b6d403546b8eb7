"""`cnncodes`: the command line. Commands import what they need when they run, so that `--help` answers at once."""

from __future__ import annotations

import logging
import sys

import typer

from pipeline.cli import advise, codes, finetune, heads, reference, sanity, search, serve, weights
from pipeline.errors import UserError

app = typer.Typer(
    name="cnncodes",
    help="Images to CNN codes, linear heads and an honest comparison. Start: cnncodes extract photos/ --out codes/",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
codes.register(app)
finetune.register(app)
sanity.register(app)
heads.register(app)
search.register(app)
advise.register(app)
serve.register(app)
weights.register(app)
reference.register(weights.weights)


def main() -> None:
    """The console script: a UserError is one line on stderr and exit code 2; Ctrl-C is 130."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells of each set of instructions that it tries
    try:
        app()
    except UserError as e:
        typer.echo(f"cnncodes: error: {' '.join(str(e).split())}", err=True)
        sys.exit(2)
    except SystemExit as e:
        # Typer turns Ctrl-C into this exit code without a word.
        if e.code == 130:
            typer.echo("cnncodes: stopped", err=True)
        raise
