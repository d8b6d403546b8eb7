"""JSON of a stranger's: no longer, deeper and with no longer numbers than files of this program are."""

from __future__ import annotations

import json
from typing import Any

# An object for each two bytes takes forty times as much.
MOST_BYTES = 64 << 20
MOST_DEPTH = 100
MOST_DIGITS = 1000


class JsonError(ValueError):
    """Text that is not JSON as it is read here; `str()` says why in words."""


def loads(text: str | bytes) -> Any:
    """The value in it. Raises JsonError."""
    if len(text) > MOST_BYTES:
        raise JsonError(f"{len(text):,} bytes, where at most {MOST_BYTES:,} are read")
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise JsonError(f"nested more than {MOST_DEPTH} deep") from None
    except JsonError:
        raise
    except ValueError as e:
        raise JsonError(str(e)) from None
    _require_flat(value)
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise JsonError(f"a number of {len(digits):,} digits, where at most {MOST_DIGITS:,} are read")
    return int(digits)


def _require_flat(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MOST_DEPTH):
        inner = (held for outer in level for held in (outer.values() if isinstance(outer, dict) else outer))
        level = [held for held in inner if isinstance(held, dict | list)]
        if not level:
            return
    raise JsonError(f"nested more than {MOST_DEPTH} deep")
