"""Whether a result can be written, asked before the work that makes it. Nothing is made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pipeline.base.errors import UserError
from pipeline.base.failing import refusal


def require_writable(path: str | Path, *, folder: bool = True) -> None:
    """Raises UserError if a folder (or a file, if `folder` is False) can't be made or changed at `path`, naming what is
    in the way.
    """
    path = Path(path).absolute()
    if path.exists() and path.is_dir() is not folder:
        raise UserError(f"{path} is a {'file' if folder else 'folder'}", allowed=f"a {'folder' if folder else 'file'}")
    # What is written gets its name by a rename, which needs rights in the folder above a file, not in the file.
    place = path if folder and path.exists() else path.parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{path} can't be made: {place} is a file, not a directory", allowed="a folder there")
    if not os.access(place, os.W_OK | os.X_OK):
        raise refusal(errno.EACCES, path)
