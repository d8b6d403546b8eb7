"""All commands in one. They import what they need when they run, so that `--help` answers at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from pipeline.base.front import MEANINGS, ExitCode
from pipeline.cli import (
    advise,
    codes,
    dvc,
    export_model,
    finetune,
    heads,
    index,
    params,
    reference,
    sanity,
    search,
    serve,
    weights,
)
from pipeline.cli.amiss import told

# A command that was not asked for rightly: typer has no name for the class.
_UsageError: Any = typer.BadParameter.__base__
_ENDS = "\n\n".join(["Exit codes:", *(f"{code.value}: {meaning}" for code, meaning in MEANINGS.items())])


class _Passed(Exception):
    """Carries past typer what it would turn into exit codes of its own, without a word."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@contextlib.contextmanager
def _passing() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, OSError, EOFError) as e:
        raise _Passed(e) from e


class _Commands(TyperGroup):
    def make_context(self, *args: Any, **settings: Any) -> Any:
        with _passing():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _passing():
            return super().invoke(ctx)


app = typer.Typer(
    name="cnncodes",
    cls=_Commands,
    help="Images to CNN codes, linear heads and an honest comparison. Start: cnncodes extract photos/ --out codes/",
    epilog=_ENDS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
codes.register(app)
finetune.register(app)
sanity.register(app)
heads.register(app)
export_model.register(app)
index.register(app)
search.register(app)
advise.register(app)
serve.register(app)
weights.register(app)
reference.register(weights.weights)
dvc.register(app)
params.register(app)


def command() -> int:
    """Runs what sys.argv asks for. Returns its exit code; raises what it raised, UserError for a command line amiss."""
    try:
        ended = app(standalone_mode=False)
    except _Passed as passed:
        raise passed.error from passed.error.__cause__
    except _UsageError as e:
        if type(e).__name__ == "NoArgsIsHelpError":  # it has shown the help
            return int(ExitCode.USER)
        raise told(e) from None
    return ended if isinstance(ended, int) else 0
