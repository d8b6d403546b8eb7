"""What lies under the name of a weights file where a download or a checkout went wrong."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.base.errors import UserError

_LOOKED_AT_BYTES = 2048
_LFS = b"version https://git-lfs.github.com/spec/"
_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)
_PAGE = re.compile(rb"<(!doctype html|html|head|body|!--)", re.IGNORECASE)


def require_not_mistaken(path: Path) -> None:
    """Raises UserError, naming what it is, on an empty file, a Git LFS or git-annex pointer, a web page, and a server's
    answer in XML or JSON. Other content is for a reader to judge."""
    try:
        with path.open("rb") as file:
            head = file.read(_LOOKED_AT_BYTES)
    except OSError as e:
        raise UserError(f"can't read {path} ({e.strerror})") from None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise UserError(f"{path} is empty", allowed="the file as it was published")
    if text.startswith(_LFS):
        size = _SIZE.search(text)
        missing = f" of {int(size[1]):,} bytes" if size else ""
        raise UserError(
            f"{path} is a Git LFS pointer: the file{missing} that it stands for was not fetched",
            allowed="`git lfs pull` in its repository, or a download of the file itself",
        )
    if text.startswith((b"/annex/objects/", b"../.git/annex/objects/")):
        raise UserError(f"{path} is a git-annex pointer", allowed="`git annex get` in its repository")
    if _PAGE.match(text):
        title = _TITLE.search(text)
        named = f" ({' '.join(title[1].decode('utf-8', 'replace').split())[:80]!r})" if title else ""
        raise UserError(f"{path} is a web page{named} saved under that name", allowed="a download of the file itself")
    if text.startswith((b"<?xml", b"<Error>")) or re.match(rb'\{\s*"', text):
        raise UserError(
            f"{path} is text, such as a server's answer: {text[:80].decode('utf-8', 'replace')!r}",
            allowed="a download of the file itself",
        )
