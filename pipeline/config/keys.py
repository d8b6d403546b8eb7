"""Which keys a model of params has at any depth, from its types alone."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, RootModel

from pipeline.config.layout import KeyGroup, groups_of, keys_of, path_of

_NEAREST = 3


def types_at(annotation: Any, path: Iterable[object] = (), *, located: bool = False) -> list[Any]:
    """The types that a value at a path may have, each member of a union by itself; [] for an unknown path.

    `located`: the path is pydantic's of an error, with places in lists, kinds where a union is told apart by them, and
    without the groups of files.
    """
    here = _flat([annotation])
    for name in path:
        here = _flat(inner for one in here for inner in _inner(one, name, located=located))
    return here


def keys_at(annotation: Any, path: Iterable[object] = (), *, located: bool = False) -> list[str]:
    """The keys that may stand at a path; [] where any name may, or none."""
    found = types_at(annotation, path, located=located)
    keys = [keys_of(one) if _is_model(one) else list(one.keys) for one in found if _is_model(one) or _is_group(one)]
    return list(dict.fromkeys(key for some in keys for key in some))


def takes_any_name(annotation: Any, path: Iterable[object] = ()) -> bool:
    """Whether names of the user's own may stand at a path."""
    return any(get_origin(one) is dict for one in types_at(annotation, path))


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Those of `known` that are most like a name; all of them where none is."""
    return difflib.get_close_matches(name, known, n=_NEAREST, cutoff=0.5) or list(known)


def _inner(one: Any, name: object, *, located: bool) -> list[Any]:
    """The types of the value under a key."""
    origin, args = get_origin(one), get_args(one)
    if origin is dict:
        return [args[1]]
    if located and origin is list:
        return [args[0]]
    if _is_group(one):
        return [one.model.model_fields[one.keys[name]].annotation] if name in one.keys else []
    return _inner_of_model(one, name, located=located) if _is_model(one) else []


def _inner_of_model(model: type[BaseModel], name: object, *, located: bool) -> list[Any]:
    fields, groups = model.model_fields, groups_of(model)
    if not located and name in groups:
        return [groups[str(name)]]
    if name in fields and (located or path_of(model, str(name)) == name):
        return [fields[str(name)].annotation]
    kind = fields.get("kind")
    return [model] if located and kind is not None and name in get_args(kind.annotation) else []


def _is_group(one: Any) -> bool:
    return isinstance(one, KeyGroup)


def _is_model(one: Any) -> bool:
    return isinstance(one, type) and get_origin(one) is None and issubclass(one, BaseModel)


def _flat(annotations: Iterable[Any]) -> list[Any]:
    """With the members of unions in their places, and without what stands around a type."""
    found: list[Any] = []
    for one in annotations:
        if get_origin(one) is Annotated:
            found += _flat(get_args(one)[:1])
        elif get_origin(one) in (Union, types.UnionType):
            found += _flat(get_args(one))
        elif _is_model(one) and issubclass(one, RootModel):
            found += _flat([one.model_fields["root"].annotation])
        else:
            found.append(one)
    return found
