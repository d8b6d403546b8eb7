"""YAML 1.2 as DVC reads it, by the same library: what `dvc exp run -S` writes into params.yaml is what a stage gets.

In YAML 1.1 1e-5 is text, `on` and `no` are booleans, 010 is 8 and 1:30 is 90.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from pipeline.errors import UserError

_LEADING_POINT = re.compile(r"[-+]?\.[0-9]+[eE][0-9]+")


class _Resolver(VersionedResolver):
    """Takes .5e1 for a number too, as YAML 1.2.2 has it (section 10.3.2); the library's asks for .5e+1."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0] and _LEADING_POINT.fullmatch(value):
            return Tag(suffix="tag:yaml.org,2002:float")
        return super().resolve(kind, value, implicit)


def read_yaml(path: str | Path) -> Any:
    """The plain values in a file. Raises FileNotFoundError, and UserError if it is not YAML."""
    text = Path(path).read_bytes()
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    try:
        return yaml.load(text.decode("utf-8"))
    except MarkedYAMLError as e:
        line = "" if e.problem_mark is None else f" in line {e.problem_mark.line + 1}"
        raise UserError(f"{path} is not YAML: {e.problem}{line}") from None
    except (YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())[:200]}") from None
