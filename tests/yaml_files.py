"""Params files and DVC's files in tests: read as the stages and DVC read them, written by the same library."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.config import read_yaml


def load(path: Path) -> Any:
    return read_yaml(path)


def dump(values: Any) -> str:
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, out)
    return out.getvalue()
