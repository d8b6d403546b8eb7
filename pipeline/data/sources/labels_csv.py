"""labels.csv: one row an image, however spreadsheets, Windows and Macs write it.

It has the columns path and label, and may have group and split. A path is relative to the folder, or absolute inside
it. A file whose values can't be told for certain (another separator, another encoding) is refused, never guessed at.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath

from pipeline.base.errors import UserError
from pipeline.data.links import Links
from pipeline.data.sources.base import Record, known_split
from pipeline.data.spelling import spelled

NAME = "labels.csv"

_COLUMNS = ("path", "label", "group", "split")
# UTF-32's mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}

log = logging.getLogger(__name__)


def find(root: Path) -> Path | None:
    """The folder's labels.csv, in capitals if there is no other; None without."""
    if (root / NAME).is_file():
        return root / NAME
    return next((p for p in sorted(root.iterdir()) if p.name.casefold() == NAME and p.is_file()), None)


def read(
    file: Path, found: Collection[str], *, links: Links, split_of: Callable[[str], str] | None = None
) -> list[Record]:
    """The rows of a labels.csv; a row that is there twice counts once. Labels are as written, "" for none.

    `found`: the files below its folder, relative to it. `links`: of its folder. `split_of`: path -> split, for a
    file without such a column. Raises UserError if it can't be read, or gives one image two labels.
    """
    where, places = str(file), _Places(file.parent, found)
    lines: dict[str, list[tuple[int, Record]]] = defaultdict(list)
    for line, values in _table(_text(file, links), where):
        record = _record(values, places, f"{where} line {line}")
        if split_of is not None and "split" not in values:
            record = record._replace(split=split_of(record.path))
        lines[record.path].append((line, record))
    if not lines:
        raise UserError(f"{where} lists no images", allowed="one row an image")
    _require_one_meaning(lines, where)
    records = [rows[0][1] for rows in lines.values()]
    if any(r.split for r in records) and not all(r.split for r in records):
        raise UserError(f"{where} gives some rows a split and others none", allowed="all rows, or no split column")
    if again := sum(map(len, lines.values())) - len(lines):
        log.warning("%d row(s) of %s say again what another row says", again, where)
    return records


def _text(file: Path, links: Links) -> str:
    try:
        with links.open(file.name) as opened:
            data = opened.read()
    except OSError as e:
        raise UserError(f"{file} can't be read: {e.strerror or e}") from e
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise UserError(
            f"{file} line {line} is not {encoding.upper().removesuffix('-SIG')}",
            allowed='UTF-8: in a spreadsheet, save as "CSV UTF-8"; iconv -f WINDOWS-1252 -t UTF-8 turns an older file',
        ) from e


def _table(text: str, where: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and column -> value of each row; rows and columns without any content are passed over."""
    # Without strict, a quote that never ends would take the rest of the rows for one label.
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        header = next(rows, [])
        names = [spelled(name).casefold() for name in header]
        _require_columns(names, header, where)
        for row in rows:
            if not any(map(str.strip, row)):
                continue
            if len(row) < len(names) or any(map(str.strip, row[len(names) :])):
                raise UserError(f"{where} line {rows.line_num} has more or fewer values than the header")
            yield rows.line_num, {name: value for name, value in zip(names, row, strict=False) if name}
    except csv.Error as e:
        raise UserError(
            f"{where} line {rows.line_num} is not CSV: {e}", allowed='commas, and quotes as in "a, b"'
        ) from e


def _require_columns(names: Sequence[str], header: Sequence[str], where: str) -> None:
    named = [name for name in names if name]
    if {"path", "label"} <= set(named) <= set(_COLUMNS) and len(set(named)) == len(named):
        return
    used = [words for mark, words in _SEPARATORS.items() if mark in "".join(header)]
    hint = f", between commas: this file seems to have {used[0]}" if used else ""
    raise UserError(f"{where} has the columns {list(header)}", allowed=f"path, label[, group][, split]{hint}")


def _record(values: dict[str, str], places: _Places, where: str) -> Record:
    path = None if "\0" in "".join(values.values()) else places.find(values["path"])
    if path is None:
        raise UserError(f"{where} has the path {values['path']!r}", allowed="a path inside the folder, relative to it")
    split = values.get("split", "").strip()
    return Record(path, values["label"], values.get("group", ""), split and known_split(split, where=where))


def _require_one_meaning(lines: dict[str, list[tuple[int, Record]]], where: str) -> None:
    """Raises UserError if two rows say different things of one image."""

    twice = []
    for path, ((line, record), *others) in lines.items():
        other = next((n for n, r in others if _meaning(r) != _meaning(record)), None)
        if other is not None:
            twice.append(f"{path!r} in lines {line} and {other}")
    if twice:
        raise UserError(
            f"{where} says different things of {len(twice)} file(s), the first {twice[0]}", allowed="one row an image"
        )


def _meaning(record: Record) -> tuple[str, str, str]:
    return spelled(record.label), spelled(record.group), record.split


class _Places:
    """Which file of a folder a row of labels.csv means."""

    def __init__(self, root: Path, found: Collection[str]) -> None:
        """`found`: paths of the files below `root`, relative to it."""
        self._root = os.path.abspath(root)
        self._found = frozenset(found)

    @cached_property
    def _like(self) -> dict[str, list[str]]:
        alike = defaultdict(list)
        for path in self._found:
            alike[_key(path)].append(path)
        return alike

    def find(self, text: str) -> str | None:
        """A path below the folder; None if the text names none. A file that isn't there is named all the same.

        The file of that very name goes first, then one that looks the same: in another Unicode form, as Macs write
        names, in other capitals, as Windows doesn't mind, or with spaces around it.
        """
        inside = None
        # A backslash may be part of a name, and is what Windows has between folders.
        for written in dict.fromkeys((text, text.strip(), text.strip().replace("\\", "/"))):
            if (path := self._inside(written)) is None:
                continue
            if path in self._found or os.path.lexists(f"{self._root}/{path}"):
                return path
            inside = path
        alike = self._like.get(_key(inside), []) if inside else []
        return alike[0] if len(alike) == 1 else inside

    def _inside(self, text: str) -> str | None:
        if not text or PureWindowsPath(text).drive:
            return None
        path = posixpath.normpath(posixpath.join(self._root, text))
        rest = _below(self._root, path)
        if rest is None and text.startswith("/"):  # perhaps the same folder by another way
            real = posixpath.join(os.path.realpath(posixpath.dirname(path)), posixpath.basename(path))
            rest = _below(os.path.realpath(self._root), real)
        return rest


def _below(root: str, path: str) -> str | None:
    """The part of an absolute path below a folder, whose own name may be in another Unicode form; None outside."""
    above, parts = root.rstrip("/").split("/"), path.split("/")
    own = parts[: len(above)]
    return "/".join(parts[len(above) :]) or None if list(map(_key, own)) == list(map(_key, above)) else None


def _key(path: str) -> str:
    """Equal for paths that look the same, but for capitals."""
    return "/".join(map(spelled, path.split("/"))).casefold()
