"""Heads that were finished: of several that one command trains, a stop in the last costs the others nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams
from pipeline.data.manifest import Manifest
from pipeline.heads.run import what_decides

FOLDER = "heads-done"
_FILES = ("model.h5", "predictions.h5")
_METRICS = "metrics.json"
_TIMES = frozenset({"fit_s", "predict_s"})


def mark(codes: Codes, manifest: Manifest, params: HeadsParams, head: str, out: Path) -> str:
    """Names a head by all that changes it, and the folder that it is in."""
    return json_files.fingerprint({"head": head, "out": os.path.abspath(out), **what_decides(codes, manifest, params)})


def remember(cache: Path, name: str, out: Path) -> None:
    """What is in `out` now is the head of that mark. Where the cache can't be written it is forgotten."""
    with contextlib.suppress(UserError, OSError):
        json_files.write(_file(cache, name), _digests(out))


def forget(cache: Path, name: str) -> None:
    """Before its files are written again: they must not be taken for it while they are partly another's."""
    with contextlib.suppress(OSError):
        _file(cache, name).unlink(missing_ok=True)


def is_there(cache: Path, name: str, out: Path) -> bool:
    """Whether the files in `out` are those that were remembered."""
    try:
        return bool(json_files.read(_file(cache, name)) == _digests(out))
    except (UserError, OSError):
        return False


def _digests(out: Path) -> dict[str, str]:
    found = {name: disk.sha256(out / name) for name in _FILES}
    return found | {_METRICS: json_files.fingerprint(_timeless(json_files.read(out / _METRICS)))}


def _timeless(value: Any) -> Any:
    """Without seconds, which differ from run to run."""
    if isinstance(value, dict):
        return {key: _timeless(own) for key, own in value.items() if key not in _TIMES}
    return [_timeless(own) for own in value] if isinstance(value, list) else value


def _file(cache: Path, name: str) -> Path:
    return cache / FOLDER / f"{name[:32]}.json"
