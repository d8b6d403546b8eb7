"""Params files and DVC's files in tests: read as the stages and DVC read them, written by the same library."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.config import SECTIONS, read_params, read_yaml
from pipeline.config.layout import grouped


def load(path: Path) -> Any:
    return read_yaml(path)


def dump(values: Any) -> str:
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, out)
    return out.getvalue()


def params(path: Path) -> dict[str, Any]:
    """The sections of a params file, whole: by field, without presets and groups."""
    return read_params(path)


def dump_params(values: dict[str, Any]) -> str:
    """The text of a params file with these sections, by field."""
    return dump({"preset": "base"} | {name: grouped(SECTIONS[name], values[name]) for name in values})
