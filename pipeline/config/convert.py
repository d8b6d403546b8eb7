"""A params file from before there were presets, as it is written now: without what the base says too."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.base.errors import UserError
from pipeline.config import SECTIONS
from pipeline.config.base import validate
from pipeline.config.layered import BASE, PRESET, kind_defaults, preset_section
from pipeline.config.layout import groups_of, keys_of, path_of
from pipeline.config.yaml12 import read_yaml

# Keys that dvc.yaml names, or that are set by DVC's -S, which sets keys that stand in the file and no others.
STANDING = (
    *("dataset.source", "dataset.root", "dataset.train", "dataset.test"),
    *("dataset.leave_out", "dataset.follow_links"),
    *("weights.arch", "weights.source", "weights.file"),
    *("codes.layers", "codes.dtype", "codes.image.crop", "codes.image.scales"),
    *("codes.compute.precision", "codes.compute.memory_mb"),
    *("heads.heads", "heads.fit.scaling", "heads.fit.class_weight"),
    *("retrieval.specs", "retrieval.settings", "retrieval.approximate", "advise.reference"),
    *("finetune.run", "finetune.optimiser.learning_rate", "finetune.loop.epochs", "finetune.compute.precision"),
    "sanity.strategies",
)


@dataclass(frozen=True)
class Converted:
    """`text`: the new file. `left_out`: a sentence for each value of the old one that holds without being said."""

    text: str
    left_out: tuple[str, ...]


def convert(path: str | Path) -> Converted:
    """The new file. Sections that the file doesn't have are the base's, as commands had them.

    Raises UserError on a file that is not a params file of before, or has wrong values.
    """
    old = read_yaml(path)
    if isinstance(old, Mapping) and "preset" in old:
        raise UserError(
            f"{path} names a preset, as params files do now: there is nothing to convert",
            allowed="a params file from before there were presets",
            see="docs/params.md",
        )
    if not isinstance(old, Mapping) or not old or not set(old) <= set(SECTIONS):
        raise UserError(
            f"{path} is not a params file from before there were presets", allowed=f"the sections {', '.join(SECTIONS)}"
        )
    new: dict[str, Any] = {}
    left_out: list[str] = []
    for name in (name for name in SECTIONS if name in old):
        model = SECTIONS[name]
        validate(model, old[name], where=f"{path}: {name}")
        new[name] = _section(name, model, old[name], left_out)
    return Converted(_text(new), tuple(left_out))


def renamed() -> dict[str, str]:
    """Old name -> new name of each key that moved, by their full names."""
    return {
        f"{name}.{field}": f"{name}.{path_of(model, field)}"
        for name, model in SECTIONS.items()
        for field in model.model_fields
        if path_of(model, field) != field
    }


def _section(name: str, model: type[BaseModel], old: Mapping[str, Any], left_out: list[str]) -> dict[str, Any]:
    """Every group, every key that stands, and what differs from the base. Adds to `left_out` what doesn't."""
    base = preset_section(name, model)
    said: dict[str, Any] = {}
    for key in keys_of(model):
        groups = groups_of(model)
        if key in groups:
            inside = {
                place: field for place, field in groups[key].keys.items() if _is_said(name, model, field, old, base)
            }
            said[key] = {place: old[field] for place, field in inside.items()}
            left_out += [
                f"{name}.{key}.{place}: {_written(old[field])}, as the preset {BASE} has it"
                for place, field in groups[key].keys.items()
                if field in old and place not in inside
            ]
        elif (name, key) == ("finetune", "strategies"):
            said[key] = {one: _strategy(one, values, left_out) for one, values in old[key].items()}
        elif _is_said(name, model, key, old, base):
            said[key] = old[key]
        elif key in old:
            left_out.append(f"{name}.{key}: {_written(old[key])}, as the preset {BASE} has it")
    return said


def _is_said(name: str, model: type[BaseModel], field: str, old: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    if field not in old:
        return False  # a key that has a default
    return f"{name}.{path_of(model, field)}" in STANDING or old[field] != base.get(field)


def _strategy(name: str, values: Mapping[str, Any], left_out: list[str]) -> dict[str, Any]:
    """The kind, and what it doesn't have by itself. Adds to `left_out` what it has."""
    defaults = kind_defaults()[values["kind"]]
    left_out += [
        f"finetune.strategies.{name}.{key}: {_written(value)}, as each strategy of kind {values['kind']} has it"
        for key, value in values.items()
        if key in defaults and value == defaults[key]
    ]
    return {key: value for key, value in values.items() if key == "kind" or value != defaults[key]}


def _written(value: Any) -> str:
    """On one line, as YAML has it."""
    return json.dumps(value, ensure_ascii=False)


def _text(values: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    out = io.StringIO(f"{PRESET}: {BASE}\n\n")
    out.seek(0, io.SEEK_END)
    yaml = YAML(pure=True)
    yaml.default_flow_style = None  # what has no keys or lists inside, on one line
    yaml.width = 110
    for name, section in values.items():
        yaml.dump({name: section}, out)
        out.write("\n")
    return out.getvalue().rstrip("\n") + "\n"
