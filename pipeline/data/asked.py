"""Images that a user names for an answer: files, and folders for all images below them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.data import kinds
from pipeline.data.left_out import LeaveOut
from pipeline.data.links import NOT_FOLLOWED, Links
from pipeline.data.manifest import Failure
from pipeline.data.sources import folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """`files` in the order given, those of a folder sorted by path. `links`: of the folder that a file was found in."""

    files: list[Path]
    links: dict[Path, tuple[Links, str]]

    def open(self, file: Path) -> BinaryIO:
        """One of them, to be read. Raises OSError, as `Links.open` does."""
        if file not in self.links:
            return file.open("rb")
        links, path = self.links[file]
        return links.open(path)


def files_of(images: Sequence[str | Path], *, follow_links: bool = False) -> Asked:
    """The files that are meant. Raises UserError if a folder has none.

    `follow_links`: those in a folder that `data.links` would not follow as well.
    """
    asked = Asked([], {})
    for image in map(Path, images):
        if not image.is_dir():
            asked.files.append(image)
            continue
        left_out: list[Failure] = []
        links = Links(str(image), follow=follow_links)
        walked = folder.walk(str(image), LeaveOut([]), links, left_out)
        found = sorted(path for path in walked if not kinds.is_other(image / path))
        passed_by = sorted(f.path for f in left_out if f.kind == "not_followed")
        if not found:
            some = f" but {passed_by[0]}, {NOT_FOLLOWED}" if passed_by else ""
            raise UserError(f"{image} holds no images{some}", allowed="image files, or folders of them")
        if passed_by:
            log.warning("%s: %d x %s, the first %s", image, len(passed_by), NOT_FOLLOWED, passed_by[0])
        asked.files.extend(image / path for path in found)
        asked.links.update((image / path, (links, path)) for path in found)
    return asked


def require_some(files: Sequence[Path], failures: Mapping[int, str]) -> None:
    """Raises UserError if there is an answer for none of the files. `failures`: position -> why it can't be read."""
    if len(failures) == len(files):
        shown = ", ".join(f"{files[i]} ({why})" for i, why in list(failures.items())[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise UserError(f"{len(files)} of {counted(len(files), 'image')} cannot be read: {shown}{more}")
