"""`cnncodes`: the command line. Importing it imports nothing else, so that a stop is told from the first moment on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """The console script. How it ends is told by `pipeline.base.front`."""
    try:
        from pipeline.base import stopping
        from pipeline.base.front import run
    except KeyboardInterrupt:
        # As `front` says it; 130 is its INTERRUPTED.
        import sys

        sys.stderr.write("cnncodes: stopped by Ctrl-C; nothing was begun\n")
        raise SystemExit(130) from None

    def command() -> int:
        # Here, so that Ctrl-C during these imports too is told in words.
        with stopping.says(lambda: "nothing was begun"):
            from pipeline.cli.app import command

        return command()

    run(command, name="cnncodes")
