"""JSON files and canonical JSON, of which fingerprints are made.

Fresh means that a fingerprint matches, never that a file exists.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.base import disk, plain_json
from pipeline.base.errors import UserError


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN is refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any) -> str:
    """64 hex digits: sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write(path: str | Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    disk.write_text(path, json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False) + "\n")


def write_last(path: str | Path, value: Any) -> None:
    """As `write`: the last file of a folder that has one writer, so that what killed ones left can go."""
    write(path, value)
    disk.clear_leftovers(Path(path).parent, "*")


def read(path: str | Path) -> Any:
    """The value in a JSON file. Raises UserError naming the file if it is missing, not JSON or not a regular file."""
    path = Path(path)
    if not path.is_file():  # a pipe has no end, nor have some devices
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}")
    try:
        if path.stat().st_size > plain_json.MOST_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes", allowed=f"{plain_json.MOST_BYTES:,} of JSON")
        return plain_json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path} can't be read: {(e.strerror or str(e)).lower()}") from None
    except ValueError as e:
        raise UserError(f"{path} is not JSON ({e}); it may have been cut short") from None
