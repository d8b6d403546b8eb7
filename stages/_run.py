"""How every stage starts and ends: a log on stderr, and the user's errors as one sentence."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable

from pipeline.errors import UserError

# Of what a matrix in dvc.yaml goes through; no folder's name can lead out of the one it is put in.
_NAME = re.compile(r"\w(?!.*\.\.)[\w.-]*")


def item_of(stage: str, about: str | None) -> str:
    """The name after `stage@` that this process is asked for: the argument, else that of the stage DVC runs.

    DVC would paste names of params.yaml into a command for the shell to read, so commands have none, and the name
    comes by DVC's own variable of the environment. Raises UserError if there is none, or it is more than a name.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("name", nargs="?", help=f"as in {stage}@NAME; that of the stage which DVC runs, if not given")
    name = parser.parse_args().name or os.environ.get("DVC_STAGE", "").partition(f"{stage}@")[2]
    if not name:
        raise UserError(f"stages.{stage} is not told what to run", allowed="a name, or `dvc repro`")
    if not _NAME.fullmatch(name):
        raise UserError(f"{stage}@{name!r} is more than a name", allowed="letters, digits, '_', '-' and single dots")
    return str(name)


def run(main: Callable[[], None]) -> None:
    """Calls `main` and exits: 0, or 2 with one line on stderr after a UserError, or 130 after Ctrl-C.

    Any other exception is a bug of ours and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # It tells of every instruction set that the processor lacks as if something had gone wrong.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    try:
        main()
    except UserError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
