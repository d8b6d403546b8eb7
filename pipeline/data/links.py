"""Which links among images may be followed.

A folder of images may come from a stranger, and a link in it may lead to any file of this machine, which would be
indexed, shown and shared as one of its images. So a link is followed where it stays in the folder that the user named,
or leads to the very place where DVC or git-annex keep a file of the repository that the link lies in. Whoever may write
into the folder could put a link in the place of a file that was looked at before: so it is looked up again where an
opened file lies.
"""

from __future__ import annotations

import configparser
import errno
import functools
import io
import os
import posixpath
import re
import stat
from pathlib import Path

NOT_FOLLOWED = "a link out of the folder, which --follow-links (dataset.follow_links) follows"

# Such a place is named by the digest of its content: whoever can name one knows the content already. That is what makes
# it safe to believe the configuration of a repository that came from elsewhere.
_DVC_OBJECT = re.compile(r"(?:files/[a-z0-9-]+/)?[0-9a-f]{2}/[0-9a-f]{30,}")
_ANNEX_OBJECT = re.compile(r"[^/]+/[^/]+/(?P<key>[A-Z0-9_]+-[^/]*--[^/]+)/(?P=key)")

# Links to the files that this process has open, on systems that have such.
_OPENED = "/proc/self/fd"


class NotFollowedError(OSError):
    """An opened file that lies where no link may lead."""


class Links:
    """The links below one folder."""

    def __init__(self, root: str, *, follow: bool = False) -> None:
        """`root`: the folder that the user named, which may be a link itself. `follow`: all links, to anywhere."""
        self._root, self._all = root, follow
        self._real = os.path.realpath(root)
        self._real_folder = functools.lru_cache(maxsize=1 << 16)(os.path.realpath)
        self._stores = functools.lru_cache(maxsize=1 << 16)(_stores)

    def may_follow(self, path: str) -> bool:
        """Whether a path below the root, by the links on its way and its own, leads to where it may; so do paths
        without links. A place where nothing is counts as well.
        """
        if self._all:
            return True
        folder, name = os.path.split(f"{self._root}/{path}")
        there = f"{self._real_folder(folder)}/{name}"
        real = os.path.realpath(there) if os.path.islink(there) else there  # noqa: PTH114  a million of them
        return bool(_below(self._real, real) or self._is_kept(folder, real))

    def open(self, path: str) -> io.BufferedReader:
        """A regular file at a path below the root, to be read, whatever came in its place since it was listed.

        Raises NotFollowedError if it lies elsewhere, and OSError if it can't be opened.
        """
        # What came in its place may be a pipe, for whose writer this would wait.
        opened = os.open(f"{self._root}/{path}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise OSError(errno.EINVAL, "not a file")
            if not (self._all or self._lies_right(path, opened)):
                raise NotFollowedError(errno.ELOOP, NOT_FOLLOWED)
            return os.fdopen(opened, "rb")
        except BaseException:
            os.close(opened)
            raise

    def _lies_right(self, path: str, opened: int) -> bool:
        try:
            if _below(self._real, os.readlink(f"{_OPENED}/{opened}")):  # noqa: PTH115  of each photograph
                return True
        except OSError:
            pass  # a system without
        real = os.path.realpath(f"{self._root}/{path}")
        kept = self._is_kept(f"{self._root}/{posixpath.dirname(path)}", real)
        return bool(_below(self._real, real) or kept) and os.path.samestat(os.fstat(opened), os.stat(real))  # noqa: PTH116

    def _is_kept(self, folder: str, real: str) -> bool:
        """Whether a file is the one that DVC or git-annex keep for a link in `folder`."""
        above = {**_above(self._real_folder(folder)), **_above(os.path.abspath(folder))}
        stores = (found for one in above for found in self._stores(one))
        return any(shape.fullmatch(_below(store, real)) for store, shape in stores)


def _below(folder: str, path: str) -> str:
    """The part of a path below a folder, both without links; "" outside."""
    above = folder.rstrip("/") + "/"
    return path[len(above) :] if path.startswith(above) else ""


def _above(folder: str) -> dict[str, None]:
    """A folder and all that it lies in."""
    return dict.fromkeys(map(str, (Path(folder), *Path(folder).parents)))


def _stores(folder: str) -> list[tuple[str, re.Pattern[str]]]:
    """Where the repository in `folder` keeps files, if it is one, and what these are called there."""
    found = []
    if os.path.exists(f"{folder}/.git"):  # noqa: PTH110  a link in git-annex's submodules and further worktrees
        found.append((os.path.realpath(f"{folder}/.git/annex/objects"), _ANNEX_OBJECT))
    own = Path(folder, ".dvc")
    if own.is_dir():
        at_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser(), "dvc")
        configs = (own / "config", own / "config.local", at_home / "config", Path("/etc/xdg/dvc/config"))
        caches = [own / "cache", *(c.parent / text for c in configs if (text := _cache_dir(c)))]
        found += [(os.path.realpath(cache), _DVC_OBJECT) for cache in caches]
    return found


def _cache_dir(config: Path) -> str:
    """`dir` of the section `cache`, relative to the folder of the file; "" where there is none."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(config, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return ""  # DVC itself says what is wrong with it
    return parser.get("cache", "dir", fallback="").strip("\"'")
