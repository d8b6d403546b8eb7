"""What a box holds, as values that are equal when two boxes hold the same, and what may not be left in one."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# Keys of results that are times or memory, which no two runs share.
_MEASURED = re.compile(r".*_(s|ms|us|bytes)$|^(s|seconds|seconds_per_image|time|speed|rate_per_s|images_per_s)$")
_NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")
# Texts that show measured times among other things: their numbers are not compared.
_SHOWN = (".csv", ".svg")
_WORK = "cache/work/"  # folders of a command at work
_LOCKS = {".lock", ".lock-held"}

Snapshot = dict[str, str]


def snapshot(box: Path) -> Snapshot:
    """Path below the box -> what it holds. Of an index its generation in force alone, of the cache its rows."""
    found: Snapshot = {}
    for path in box.glob("cache/*.sqlite"):
        _table(path)  # rolls back what a run that was stopped had begun, as the next run does
    for path in sorted(box.rglob("*")):
        name = path.relative_to(box).as_posix()
        top = path.relative_to(box).parts[0]
        if path.is_dir() or path.name in _LOCKS or top == "tmp" or "/live" in name or name.startswith(_WORK):
            continue
        generation = next((part for part in path.parts if part.startswith("gen-")), None)
        if generation or path.name == "current.json":
            if path.name == "current.json":
                found[name] = _in_force(path)
        elif (
            top == "cache"
            and ("/codes/" in name or "/finetune-images/" in name)
            and "/shard-" in name
            and ".tmp" not in path.name
        ):
            if path.suffix == ".h5" and path.with_suffix(".ids").exists():
                found |= _rows(path, name.rpartition("/")[0])
        elif path.suffix == ".sqlite" and not path.name.startswith("."):
            found[name] = _table(path)
        else:
            found[name] = _content(path)
    return found


def mark(box: Path, found: Snapshot) -> str:
    """Equal for two boxes that a command can't tell from one another but by times: what they hold, and all names, with
    modes and lengths."""
    names = [(str(p.relative_to(box)), p.lstat().st_mode, p.is_file() and p.stat().st_size) for p in box.rglob("*")]
    return _digest(repr((sorted(found.items()), sorted(names))).encode())


def leftovers(box: Path) -> list[str]:
    """Temporary files and folders that a command left; not libraries' single files in the system's own folder."""
    found = [p for p in box.rglob(".*") if p.name not in _LOCKS]
    found += [p for p in box.rglob("[!.]*") if ".tmp" in p.name or p.name.endswith("-journal")]
    found += [*(box / "tmp").glob("[!.]*/"), *(box / _WORK).glob("[!.]*")]
    return sorted({p.relative_to(box).as_posix() for p in found})


def differing(found: Snapshot, wanted: Snapshot) -> list[str]:
    """The paths that are missing, too many or other, each with what it is."""
    told = [f"{p} is missing" for p in sorted(wanted.keys() - found.keys())]
    told += [f"{p} is there" for p in sorted(found.keys() - wanted.keys())]
    return told + [f"{p} is other" for p in sorted(found.keys() & wanted.keys()) if found[p] != wanted[p]]


def timeless(text: str) -> str:
    """JSON without what was measured; other text as it is, its numbers left out."""
    try:
        return json.dumps(_without_measures(json.loads(text)), sort_keys=True)
    except ValueError:
        return _NUMBER.sub("#", text)


def _content(path: Path) -> str:
    data = path.read_bytes()
    if "finetune-runs" in path.parts or "finetune-done" in path.parts or path.name in ("tests.json", "made-of.json"):
        return "times, or digests of files that hold times"
    if "kept-checkpoints" in path.parts:
        return _tensors(data)
    if path.suffix == ".html":
        return "a page" if data.rstrip().endswith(b"</html>") else "part of a page"
    if path.suffix == ".json":
        return timeless(data.decode(errors="replace"))
    if path.suffix in _SHOWN and path.name != "manifest.csv":
        return _digest(_NUMBER.sub("#", data.decode(errors="replace")).encode())
    return _digest(data)


def _tensors(data: bytes) -> str:
    """Of a safetensors file all but its metadata, which hold times."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError:
        return "part of a checkpoint"
    header.pop("__metadata__", None)
    return _digest(json.dumps(header, sort_keys=True).encode() + data[8 + length :])


def _without_measures(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_measures(v) for k, v in value.items() if not _MEASURED.match(k)}
    return [_without_measures(v) for v in value] if isinstance(value, list) else value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _in_force(pointer: Path) -> str:
    """The manifest of the generation that an index names, and whether its files are as stated."""
    try:
        folder = pointer.parent / json.loads(pointer.read_bytes())["generation"]
        manifest = json.loads((folder / "manifest.json").read_bytes())
        whole = all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError) as e:
        return f"broken {e}"
    return f"{'whole' if whole else 'broken'} {json.dumps(manifest, sort_keys=True)}"


def _rows(shard: Path, key: str) -> Snapshot:
    try:
        with h5py.File(shard, locking=False) as f:
            return {
                f"{key} {digest.decode()}": _digest(np.ascontiguousarray(row).tobytes())
                for digest, row in zip(f["sha256"][:], f["codes"][:], strict=True)
            }
    except (OSError, KeyError) as e:
        return {f"{key}/{shard.name}": f"broken {e}"}


def _table(path: Path) -> str:
    try:
        db = sqlite3.connect(path)
        try:
            there = db.execute("SELECT name FROM sqlite_master WHERE name = 'files'").fetchone()
            select = "SELECT path, size, sha256, width, height FROM files ORDER BY path"
            rows = db.execute(select).fetchall() if there else []
        finally:
            db.close()
    except sqlite3.Error as e:
        return f"broken {e}"
    return _digest(repr(rows).encode())
