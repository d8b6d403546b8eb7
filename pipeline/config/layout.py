"""How a file lays out a section: which keys stand in groups, such as `codes.image.crop`. Records have no groups.

So a stage depends on a group as one param, and a person reads what belongs together; code says `codes.crop`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

# Name of a group -> key in the file -> field of the record.
Groups = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class KeyGroup:
    """Some keys of a section: `keys` is key in the file -> field of the record."""

    model: type[BaseModel]
    keys: Mapping[str, str]


def group(*names: str, **renamed: str) -> dict[str, str]:
    """Key in the file -> field, for fields that have their own name there and those that have another."""
    return {**renamed, **{name: name for name in names}}


def groups_of(model: Any) -> dict[str, KeyGroup]:
    """The groups of a section by name; {} where it has none."""
    found: Groups = getattr(model, "groups", {})
    return {name: KeyGroup(model, keys) for name, keys in found.items()}


def path_of(model: Any, field: str) -> str:
    """Where a file has a field: "crop" of `codes` -> "image.crop"."""
    for name, one in groups_of(model).items():
        for key, inside in one.keys.items():
            if inside == field:
                return f"{name}.{key}"
    return field


def keys_of(model: type[BaseModel]) -> list[str]:
    """What may stand directly in a section: fields of no group, then groups."""
    return [name for name in model.model_fields if path_of(model, name) == name] + list(groups_of(model))


def flat(model: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of a section by field, and what is wrong with the groups: a sentence each.

    A field that belongs in a group is wrong outside of it, as files had it before there were groups.
    """
    found: dict[str, Any] = {}
    wrong: list[str] = []
    groups = groups_of(model)
    for key, value in values.items():
        if key not in groups:
            if (place := path_of(model, key)) != key:
                wrong.append(f"{key}: belongs in {place}")
            else:
                found[key] = value
        elif not isinstance(value, Mapping):
            wrong.append(f"{key}: not keys and values, got {value!r} (allowed: {', '.join(groups[key].keys)})")
        else:
            known = groups[key].keys
            wrong += [f"{key}.{name}: unknown key (allowed: {', '.join(known)})" for name in value if name not in known]
            found |= {known[name]: one for name, one in value.items() if name in known}
    return found, wrong


def grouped(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `flat`: the fields of a record as a file has them, each group there even where it is empty."""
    found: dict[str, Any] = {key: value for key, value in values.items() if path_of(model, key) == key}
    for name, one in groups_of(model).items():
        found[name] = {key: values[field] for key, field in one.keys.items() if field in values}
    return found


def moved(model: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, where it belongs) of each key that stands where files had it before there were groups."""
    for key in values:
        if key not in groups_of(model) and (place := path_of(model, key)) != key:
            yield key, place
        elif key in model.model_fields and key in groups_of(model) and not isinstance(values[key], Mapping):
            yield key, path_of(model, key)
