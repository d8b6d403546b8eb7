"""How every stage learns what it is asked for, and ends."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pipeline import config
from pipeline.base import front, items, json_files, stopping
from pipeline.base.errors import UserError
from pipeline.base.items import Item

# Of what a matrix in dvc.yaml goes through; no folder's name can lead out of the one it is put in.
_NAME = re.compile(r"\w(?!.*\.\.)[\w.-]*")
_NAMES = "letters, digits, '_', '-' and single dots"


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
        raise UserError(f"{stage}@{name!r} is more than a name", allowed=_NAMES)
    return str(name)


def run_items(stage: str, names: Sequence[str], item: Callable[[str], Item], about: str | None) -> None:
    """Makes the items of a stage that are not in out/<stage> as they should be, and removes all else there.

    With a name on the command line it makes that one, and removes nothing. Raises UserError on what is more than a
    name.
    """
    only = _asked(about)
    folder = Path("out") / stage
    every = {name: item(name) for name in (_plain(stage, name) for name in ([only] if only else names))}
    if not only:
        items.remove_others(folder, every)
    items.make_missing(folder, every)


def _asked(about: str | None) -> str:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("name", nargs="?", default="", help="one of them; all, if not given")
    return str(parser.parse_args().name)


def _plain(stage: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(f"{stage}: {name!r} is more than a name", allowed=_NAMES)
    return name


def code_of(stage: str) -> str:
    """The digest of a stage's code; "" where stage `code` has not run."""
    path = Path("out/code.json")
    return str(json_files.read(path).get(stage, "")) if path.is_file() else ""


def run(main: Callable[[], None]) -> NoReturn:
    """Calls `main` and ends the process, as `base.front` has it: 0, or a code and a line on stderr that say why.

    All of params.yaml is checked first, so that a mistake in what runs last is told before anything runs.
    """

    def checked() -> None:
        with stopping.says(lambda: stopping.KEPT):
            config.load_all()
            main()

    front.run(checked, name=f"stages.{Path(sys.argv[0]).stem}")
