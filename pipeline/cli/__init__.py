"""`cnncodes`: the command line."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """The console script. How it ends is told by `pipeline.base.front`."""
    from pipeline.base.front import run

    def command() -> int:
        # Here, so that Ctrl-C during these imports too is told in words.
        from pipeline.cli.app import command

        return command()

    run(command, name="cnncodes")
