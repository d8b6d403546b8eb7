"""`-S section.key=value`: single keys of params on a command line, each checked by its name before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.base.errors import UserError
from pipeline.config.base import by_field
from pipeline.config.keys import keys_at, nearest, takes_any_name
from pipeline.config.yaml12 import parse_yaml


def assigned(texts: Sequence[str], sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`["codes.image.crop=96", "codes.layers=[LAYER-avg]"]` -> `{"codes": {"crop": 96, "layers": ["LAYER-avg"]}}`:
    values as in YAML, by field.

    Of a key that comes twice the last one holds.

    `sections`: name -> model of those that may be named. Raises UserError, for all texts together, on what is no
    assignment, a value that is not YAML, and a name that there isn't, with those most like it.
    """
    found: dict[str, dict[str, Any]] = {}
    wrong = []
    for text in texts:
        try:
            _assign(found, text, sections)
        except UserError as e:
            wrong.append(e)
    if len(wrong) > 1:
        raise UserError("; ".join(map(str, wrong)))
    if wrong:
        raise wrong[0]
    changes: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for section, values in found.items():
        changes[section], bad = by_field(sections[section], values)
        problems += [f"-S {section}.{text}" for text in bad]
    if problems:
        raise UserError("; ".join(problems), see="docs/params.md")
    return changes


def _assign(found: dict[str, dict[str, Any]], text: str, sections: Mapping[str, Any]) -> None:
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2 or not all(names):
        raise UserError(f"-S {text!r} sets no key", allowed="SECTION.KEY=VALUE, such as -S dataset.seed=1")
    _require_known(names, sections)
    inner: dict[str, Any] = found
    for name in names[:-1]:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UserError(f"-S {key} sets a part of what another -S sets", allowed="one of both")
    inner[names[-1]] = parse_yaml(value, f"-S {key}")


def _require_known(names: Sequence[str], sections: Mapping[str, Any]) -> None:
    """Raises UserError unless a section has a key of that name."""
    whole, section = ".".join(names), names[0]
    if section not in sections:
        like = nearest(section, list(sections))
        raise UserError(f"-S {whole}: this command reads no section {section!r}", allowed=like, see="docs/params.md")
    for depth in range(1, len(names)):
        above, inside = ".".join(names[:depth]), names[1:depth]
        known = keys_at(sections[section], inside)
        if names[depth] in known or (not known and takes_any_name(sections[section], inside)):
            continue
        if not known:
            raise UserError(f"-S {whole}: {above} has no keys", allowed=f"-S {above}=VALUE", see="docs/params.md")
        # A key may be looked for outside of the group that it is in.
        deeper = [f"{key}.{one}" for key in known for one in keys_at(sections[section], [*inside, key])]
        placed = {path.rpartition(".")[2]: path for path in (*deeper, *known)}
        like = [f"{above}.{placed[key]}" for key in nearest(names[depth], list(placed))]
        raise UserError(f"-S {whole}: {above} has no key {names[depth]!r}", allowed=like, see="docs/params.md")
