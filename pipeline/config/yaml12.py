"""YAML 1.2 as DVC reads it, by the same library: what `dvc exp run -S` writes into params.yaml is what a stage gets.

In YAML 1.1 1e-5 is text, `on` and `no` are booleans, 010 is 8 and 1:30 is 90.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from pipeline.base.errors import UserError
from pipeline.base.failing import reading

_LEADING_POINT = re.compile(r"[-+]?\.[0-9]+[eE][0-9]+")


# The parser takes a minute for a megabyte.
_MOST_BYTES = 100_000
# What anchors and aliases may stand for, written out: a few lines can stand for billions.
_MOST_VALUES = 100_000


class _Resolver(VersionedResolver):
    """Takes .5e1 for a number too, as YAML 1.2.2 has it (section 10.3.2); the library's asks for .5e+1."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0] and _LEADING_POINT.fullmatch(value):
            return Tag(suffix="tag:yaml.org,2002:float")
        return super().resolve(kind, value, implicit)


def read_yaml(path: str | Path) -> Any:
    """The plain values in a file.

    Raises FileNotFoundError, and UserError if it is not YAML, too long, or stands for more values than it could hold.
    """
    with reading(path) as file:
        data = file.read(_MOST_BYTES + 1)
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes | str, where: str) -> Any:
    """The plain values in a text, which errors call `where`. Raises UserError as `read_yaml`."""
    if len(data) > _MOST_BYTES:
        raise UserError(f"{where} is longer than settings are", allowed=f"{_MOST_BYTES:,} bytes of YAML")
    try:
        # A stage asks for one section after the other of the same file.
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return copy.deepcopy(_parsed(text, where))
    except MarkedYAMLError as e:
        line = "" if e.problem_mark is None else f" in line {e.problem_mark.line + 1}"
        raise UserError(f"{where} is not YAML: {e.problem}{line}") from None
    except (YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"{where} is not YAML: {' '.join(str(e).split())[:200]}") from None


@functools.lru_cache(maxsize=4)
def _parsed(text: str, where: str) -> Any:
    """This parser takes a tenth of a second for a file of settings."""
    if "&" in text and "*" in text:
        _require_few(_yaml().compose(text), where)
    return _yaml().load(text)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    return yaml


def _require_few(root: Any, where: str) -> None:
    """Raises UserError if a file's values, with each alias written out, are too many; nothing is written out here."""
    counts: dict[int, float] = {}

    def count(node: Any) -> float:
        if id(node) not in counts:
            counts[id(node)] = math.inf  # of one that holds itself
            inner = node.value if isinstance(node, CollectionNode) else []
            flat = itertools.chain.from_iterable(inner) if isinstance(node, MappingNode) else inner
            counts[id(node)] = 1 + sum(map(count, flat))
        return counts[id(node)]

    if root is not None and count(root) > _MOST_VALUES:
        raise UserError(
            f"{where} stands for more than {_MOST_VALUES:,} values by its anchors and aliases",
            allowed="values written out",
        )
