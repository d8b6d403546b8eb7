"""CSV files that this program writes and reads again, and that people open in a spreadsheet.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, which may run a program or send the
sheet elsewhere. Labels and names of files are strangers' words, so an apostrophe goes in front of such text, which
makes it text to every spreadsheet; here it is taken off again. Where semicolons or tabs part cells, as in much of
Europe, a cell may also begin behind one of those, whatever our quotes say, and a row behind an end of line.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.base.failing import place

# Apostrophes and spaces before the formula are part of the pattern, so that the way back is exact.
_START, _FORMULA = r"(^|[;\t\r\n])", r"(?=[ ']*[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20])"
_UNMARKED = re.compile(_START + _FORMULA)
_MARKED = re.compile(_START + "'" + _FORMULA)
_MAY_HOLD_FORMULAS = re.compile(r"(?:^|[,;\t\r\n])" + _FORMULA)
_MARK = re.compile("'" + _FORMULA)
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf|nan)", re.IGNORECASE)


def marked(text: str) -> str:
    """Text that no spreadsheet takes for a formula; plain numbers stay as they are. `unmarked` gives it back."""
    return text if _NUMBER.fullmatch(text) else _UNMARKED.sub(r"\1'", text)


def unmarked(text: str) -> str:
    """What `marked` was given."""
    return _MARKED.sub(r"\1", text)


def text(rows: Iterable[Sequence[object]]) -> str:
    """RFC 4180 with LF ends, every cell `marked`. The csv module's writer would leave a bare CR in a file's name
    unquoted.
    """
    lines = []
    for row in rows:
        cells = list(map(str, row))
        line = ",".join(cells)
        if _MAY_HOLD_FORMULAS.search(line):  # once a row, since there may be millions
            cells = list(map(marked, cells))
            line = ",".join(cells)
        if line.count(",") >= len(cells) or '"' in line or "\r" in line or "\n" in line:
            line = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
        lines.append(line + "\n")
    return "".join(lines)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """`text` of figures: None and NaN are empty; floats keep 6 digits."""
    return text([header, *([_cell(v) for v in row] for row in rows)])


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value


def holds_marks(written: str) -> bool:
    """Whether what `text` wrote can only be read with its marks taken off. True of some text without marks as well."""
    return _MARK.search(written) is not None


def read(path: Path, *, marks: bool = True) -> list[list[str]]:
    """The rows of a file of ours, its header first. `marks`: False for a file from before cells were marked.

    Raises OSError, and ValueError if it is no CSV in UTF-8.
    """
    try:
        with place(path), path.open(encoding="utf-8", newline="") as f:
            rows = list(csv.reader(f))
    except csv.Error as e:
        raise ValueError(str(e)) from e
    return [list(map(unmarked, row)) for row in rows] if marks else rows


def records(path: Path) -> list[dict[str, str]]:
    """The rows of a file of ours as column -> value. Raises as `read`; ValueError for a row of another length."""
    header, *rows = read(path) or [[]]
    return [dict(zip(header, row, strict=True)) for row in rows]
