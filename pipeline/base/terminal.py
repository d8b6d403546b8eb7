"""Text for a terminal: names and labels come from strangers, and some characters are commands to a terminal.

Escape sequences begin with a control character; others turn the direction of what follows, so that a name looks like
another one (Boucher and Anderson, "Trojan Source", 2021).
"""

from __future__ import annotations

import re

# Controls of C0 and C1 with DEL, separators of lines, marks and overrides of direction, and halves of characters,
# which stand for bytes of a file's name that are no UTF-8.
_COMMANDS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_ALL = re.compile(f"[{_COMMANDS}]")
_BUT_LINES = re.compile(f"(?!\n)[{_COMMANDS}]")


def plain(text: object, *, lines: bool = False) -> str:
    r"""Text in which each command to a terminal is written out, as in `\x1b[2J`; `lines` keeps line feeds."""
    return (_BUT_LINES if lines else _ALL).sub(lambda found: _written(found[0]), str(text))


def plain_json(text: str) -> str:
    r"""JSON that means the same, with `\u001b` and the like in its strings for what a terminal would obey."""
    return _BUT_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _written(character: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    code = ord(character)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
