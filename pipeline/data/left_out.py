"""What lies among photographs without being anyone's photograph: which names are left out, and why.

A name is judged by itself: `@eaDir` is a Synology's wherever it lies. Patterns of the user's own go after these rules,
as lines of a .gitignore do: the last one that fits decides, and `!name` takes back what a rule left out.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pathspec

from pipeline.base.errors import UserError


class Rule(NamedTuple):
    """Names of folders and of files, as shell patterns in lower case."""

    reason: str
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


HIDDEN = "hidden, its name begins with a dot"
# The first that fits gives the reason.
RULES = (
    Rule(
        "made by a Synology",
        ("@eadir", "@tmp", "@sharebin", "@database", "#recycle", "#snapshot", "@synoresource", "@synoeastream"),
        ("synophoto_*", "synofile_thumb_*", "*@synoresource", "*@synoeastream"),
    ),
    Rule("made by a QNAP", (".@*", "@recycle", "@recently-snapshot", "@transcode", ".streams")),
    Rule("made by Nextcloud or ownCloud", ("appdata_oc*", "files_trashbin", "files_versions")),
    Rule(
        "made by Windows",
        ("$recycle.bin", "recycler", "system volume information", "found.[0-9][0-9][0-9]"),
        ("thumbs.db*", "ehthumbs*.db", "desktop.ini", "zbthumbnail.info", "*:zone.identifier"),
    ),
    Rule(
        "made by macOS",
        (
            "__macosx",
            ".appledouble",
            ".spotlight-v100",
            ".trashes",
            ".fseventsd",
            ".temporaryitems",
            ".documentrevisions-v100",
            "network trash folder",
            "temporary items",
            "thevolumesettingsfolder",
            "thefindbycontentfolder",
        ),
        (".ds_store", "._*", ".apdisk", ".localized", "icon\r"),
    ),
    Rule("made by Lightroom", ("*.lrdata", "*.lrcat-data"), ("*.lrcat", "*.lrcat-*", "*.lrcat.lock", "*.lrprev")),
    Rule("made by Capture One", ("captureone",)),
    Rule("made by Picasa or ACDSee", (".picasaoriginals", "[[]originals]"), ("picasa.ini", ".picasa.ini")),
    Rule(
        "trash",
        (".trash", ".trash-*", ".trash_*", ".recycle", ".recycle.bin", ".dtrash", "trashbox"),
        (".trashed-*",),
    ),
    Rule("a snapshot of the file system", (".snapshot", ".snapshots", ".zfs", "~snapshot", ".ckpt"), ()),
    Rule("made by a file system", ("lost+found",), (".nfs*", ".fuse_hidden*", ".smbdelete*")),
    Rule("a cache of thumbnails", (".thumbnails", ".thumb", ".thumbs", ".thumbcache", ".wdmc"), ()),
    Rule("the thumbnail of a camera's video", (), ("*.thm",)),
    Rule("made by version control", (".git", ".svn", ".hg", ".bzr", ".dvc"), ()),
    Rule("made by a programming tool", ("node_modules", "__pycache__", ".ipynb_checkpoints"), ()),
    Rule(
        "an editor's backup or unfinished file",
        (),
        ("*~", "~$*", "#*#", ".#*", "*.sw[opx]", "*.bak", "*.tmp", "*.temp", "*.part", "*.partial", "*.crdownload"),
    ),
    Rule(HIDDEN, (".*",), (".*",)),
)  # fmt: skip

# Libraries of Apple's Photos, iPhoto and Aperture are folders, whose other parts are previews of the originals.
_LIBRARIES = (".photoslibrary", ".photolibrary", ".migratedphotolibrary", ".aplibrary")
_ORIGINALS = ("originals", "masters")
_IN_LIBRARY = "made by a photo library, beside its originals"

# What folders that this program fills hold, and most of them alone: all names of one line.
_OURS = {
    "a dataset": ("dataset.json", "manifest.csv"),
    "results": ("dataset/dataset.json",),
    "results of a run that stopped": ("dataset/failures.csv",),
    "results, still without a dataset": ("weights/weights.safetensors",),
    "weights": ("weights.safetensors",),
    "codes": ("codes.json", "part-00000.h5"),
    "an index": ("current.json", "gen-*"),
    "a head": ("model.h5", "predictions.h5", "metrics.json"),
    "a hash": ("hasher.h5", "bits.h5", "metrics.json"),
    "a trained network": ("groups.json", "head.safetensors", "metrics.json"),
    "the figures of a page": ("figures.json", "about.json", "metrics.json"),
    "a page": ("index.html", "metrics.json", "table.csv"),
    "the cache": ("files.sqlite", "codes"),
}


class LeaveOut:
    """The rules, and the user's patterns after them."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """Raises UserError for a pattern that is none."""
        # There are no comments in a list, so that `#recycle` is a name.
        lines = [f"\\{p}" if p.startswith("#") else p for p in patterns]
        try:
            own = pathspec.GitIgnoreSpec.from_lines(lines)
        except ValueError as e:
            raise UserError(f"dataset.leave_out: {e}", see="docs/params.md") from e
        if nothing := [p for p, one in zip(patterns, own.patterns, strict=True) if one.include is None]:
            raise UserError(f"dataset.leave_out has {nothing}, which fits no name", see="docs/params.md")
        self._own = own if lines else None
        self._patterns = list(patterns)

    def why(self, path: str, parent: str, *, is_folder: bool, named: bool = False) -> str:
        """The reason for which a file or folder is left out, "" if it stays.

        `path` is relative to the root, with `/`; `parent` the name of the folder that it lies in. `named`: the user's
        own list names it, which goes before the rule for hidden names.
        """
        reason = _by_name(path.rpartition("/")[2].lower(), parent.lower(), is_folder=is_folder)
        if named and reason == HIDDEN:
            reason = ""
        return self._last_word(path, reason, is_folder=is_folder)

    def ours(self, path: str, folder: str, names: Iterable[str]) -> str:
        """The reason for which a folder is left out that this program filled, by what it holds; "" for others.

        `folder` is where `path` lies on this machine, `names` what is in it.
        """
        what = _ours(folder, set(names))
        return self._last_word(path, f"made by cnncodes: {what}" if what else "", is_folder=True)

    def _last_word(self, path: str, reason: str, *, is_folder: bool) -> str:
        if self._own is None:
            return reason
        found = self._own.check_file(f"{path}/" if is_folder else path)
        if found.include is None:
            return reason
        return f"matches {self._patterns[found.index or 0]!r} of dataset.leave_out" if found.include else ""


def _by_name(name: str, parent: str, *, is_folder: bool) -> str:
    if parent.endswith(_LIBRARIES) and name not in _ORIGINALS:
        return _IN_LIBRARY
    match = (_FOLDERS if is_folder else _FILES).match(name)
    return RULES[int((match.lastgroup or "")[1:])].reason if match else ""


def _compiled(kind: str) -> re.Pattern[str]:
    """One expression for all rules, of which the group that fits has the rule's number."""
    groups = ((i, getattr(rule, kind)) for i, rule in enumerate(RULES))
    return re.compile("|".join(f"(?P<r{i}>{'|'.join(map(fnmatch.translate, some))})" for i, some in groups if some))


_FOLDERS, _FILES = _compiled("folders"), _compiled("files")


def _ours(folder: str, names: set[str]) -> str:
    for what, wanted in _OURS.items():
        if all(_holds(folder, names, one) for one in wanted):
            return what.partition(",")[0]
    return ""


def _holds(folder: str, names: set[str], wanted: str) -> bool:
    first, slash, _ = wanted.partition("/")
    if slash:
        return first in names and os.path.isfile(f"{folder}/{wanted}")  # noqa: PTH113  in a walk of a million files
    return first in names or ("*" in first and any(fnmatch.fnmatchcase(name, first) for name in names))
