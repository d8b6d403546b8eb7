"""Params in layers: a file over the preset that it names, and that over presets/base.yaml, which has every key."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.base.errors import UserError
from pipeline.config.layout import flat, moved
from pipeline.config.yaml12 import read_yaml

PRESETS = Path(__file__).with_name("presets")
BASE = "base"
PRESET = "preset"  # the key of a file that names one
_STRATEGIES = ("finetune", "strategies")
# Of these a file says all or nothing, or it could not say that there are none.
_WHOLE = (("retrieval", "settings"), ("retrieval", "approximate"))
KINDS = "kinds"  # in the base alone, of finetune: what a strategy of a kind has if it doesn't say otherwise


def names() -> list[str]:
    """The presets that a file may name."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def over(
    values: Mapping[str, Any],
    changes: Mapping[str, Any],
    at: tuple[str, ...] = (),
    *,
    whole: Sequence[tuple[str, ...]] = (),
) -> dict[str, Any]:
    """`values` with some changed: a mapping in a mapping's place changes the keys that it has and leaves the others.

    But a strategy that says its kind stands for itself: it takes nothing over from one of the same name. `at`: where
    both stand in a file; `whole`: mappings that are changed as a whole.
    """
    changed = dict(values)
    for key, change in changes.items():
        old, here = values.get(key), (*at, key)
        alone = here in whole or (at == _STRATEGIES and isinstance(change, Mapping) and "kind" in change)
        changed[key] = change
        if isinstance(old, Mapping) and isinstance(change, Mapping) and not alone:
            changed[key] = over(old, change, here, whole=whole)
    return changed


def read(path: str | Path, sections: Mapping[str, type[BaseModel]]) -> dict[str, dict[str, Any]]:
    """Section -> values by group and key as files have them, of a file over its preset over the base.

    Raises UserError on what is not such a file: of one from before there were presets it names the way on.
    """
    own = _own(path)
    preset: Any = own.pop(PRESET, None)
    unknown = sorted(set(own) - set(sections), key=str)
    if unknown:
        raise UserError(f"{path} has unknown sections {unknown}", allowed=[PRESET, *sections])
    for name, values in own.items():
        if not isinstance(values, Mapping):
            raise UserError(f"{path}: {name} is {values!r}", allowed="keys and values", see="docs/params.md")
        for key, place in moved(sections[name], values):
            raise _old(path, f"{name}.{key} is {name}.{place}")
    if preset is None:
        raise _old(path, "it names no preset")
    if not isinstance(preset, str) or preset not in names():
        raise UserError(f"{path}: preset is {preset!r}", allowed=names())
    layers = over(_laid(preset), own, whole=_WHOLE)
    return {name: layers[name] for name in sections}


def preset_section(name: str, model: type[BaseModel], preset: str = BASE) -> dict[str, Any]:
    """A section of a preset over the base, by field."""
    return flat(model, _laid(preset)[name])[0]


def strategy(values: Any) -> Any:
    """The values of a strategy with those that it leaves to its kind. What is not a mapping stays as it came."""
    if not isinstance(values, Mapping):
        return values
    kind, known = values.get("kind"), kind_defaults()
    if not isinstance(kind, str) or kind not in known:
        kind = next(iter(known))  # so that the kind is the one mistake, and not each key that it would have given
    return {**known[kind], **values}


@functools.cache
def kind_defaults() -> dict[str, dict[str, Any]]:
    """Kind of strategy -> the values of its keys."""
    return dict(_preset(BASE)["finetune"][KINDS])


def _laid(preset: str) -> dict[str, Any]:
    """A preset over the base, without what is of the base alone: a file has no such key."""
    base = copy.deepcopy(_preset(BASE))  # whoever asks may change what is in it
    finetune = {key: value for key, value in base["finetune"].items() if key != KINDS}
    return over(base | {"finetune": finetune}, {} if preset == BASE else copy.deepcopy(_preset(preset)))


@functools.cache
def _preset(name: str) -> dict[str, Any]:
    return dict(read_yaml(PRESETS / f"{name}.yaml"))


def _own(path: str | Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not here", see="README.md, which starts in the project's folder") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {type(values).__name__}, not sections", allowed="preset and sections")
    return dict(values)


def _old(path: str | Path, why: str) -> UserError:
    return UserError(
        f"{path} is laid out as files were before there were presets: {why}",
        allowed=f"`cnncodes params convert {path} --out NEW.yaml` writes it as it is now",
        see="docs/params.md",
    )
