"""Images that a user names for an answer: files, and folders for all images below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data import kinds
from pipeline.data.left_out import LeaveOut
from pipeline.data.sources import folder
from pipeline.errors import UserError


def files_of(images: Sequence[str | Path]) -> list[Path]:
    """The files in the order given, those of a folder sorted by path. Raises UserError if a folder has none."""
    files: list[Path] = []
    for image in map(Path, images):
        if not image.is_dir():
            files.append(image)
            continue
        found = sorted(path for path in folder.walk(str(image), LeaveOut([]), []) if not kinds.is_other(image / path))
        if not found:
            raise UserError(f"{image} holds no images", allowed="image files, or folders of them")
        files += [image / path for path in found]
    return files


def require_some(files: Sequence[Path], failures: Mapping[int, str]) -> None:
    """Raises UserError if there is an answer for none of the files. `failures`: position -> why it can't be read."""
    if len(failures) == len(files):
        shown = ", ".join(f"{files[i]} ({why})" for i, why in list(failures.items())[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise UserError(f"{len(files)} of {len(files)} images cannot be read: {shown}{more}")
