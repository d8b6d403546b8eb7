"""`-S section.key=value`, of every command that reads params: any key of theirs, those without an option too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from pipeline.base.errors import UserError

# Keys of `dataset` that say where the images are.
_ARGUMENTS = ("source", "root", "train", "test")


def set_option(*sections: str) -> Any:
    """The option of a command that reads these sections."""
    return typer.Option(
        "-S",
        "--set",
        metavar="SECTION.KEY=VALUE",
        help=f"Set any key of {', '.join(sections)}, as docs/params.md lists them, to a value as in YAML; repeat for "
        "more. A key is as another option or the preset has it if not given.",
    )


def changes(texts: Sequence[str] | None, **options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Section -> keys to change, of each section that a command reads: those of its `options`, and those of -S.

    Raises UserError on what `config.assigned` refuses, and on a key that both set.
    """
    from pipeline.config import PRESET_SECTIONS, assigned
    from pipeline.config.layout import path_of

    found = assigned(texts or (), {section: PRESET_SECTIONS[section] for section in options})
    named = [f"dataset.{key}" for key in _ARGUMENTS if key in found.get("dataset", {})]
    if named:
        raise UserError(f"-S sets {', '.join(named)}", allowed="images as the argument, or by --train and --test")
    both = [
        f"{section}.{path_of(PRESET_SECTIONS[section], key)}"
        for section, keys in options.items()
        for key in keys
        if key in found.get(section, {})
    ]
    if both:
        raise UserError(f"-S sets {', '.join(both)}, as another option does", allowed="one of both")
    return {section: {**keys, **found.get(section, {})} for section, keys in options.items()}


def weights_of(chosen: Mapping[str, Any], arch: str | None, weights: str | None) -> dict[str, Any]:
    """`arch` and `weights` as the library takes them, where -S may have set keys of the section `weights`.

    `chosen`: those keys. Raises UserError if they contradict the options or one another.
    """
    named = dict(chosen)
    if named and any(type(value) is not str for value in named.values()):
        raise UserError(f"-S weights with {', '.join(map(repr, named.values()))}", allowed="texts")
    if ("arch" in named and arch is not None) or (named.keys() - {"arch"} and weights not in (None, "demo")):
        raise UserError(f"-S sets weights.{', weights.'.join(named)}, as another option does", allowed="one of both")
    if "file" in named and named.setdefault("source", "file") != "file":
        raise UserError(f"-S weights.file with weights.source {named['source']!r}", allowed="weights.source=file")
    if named.get("source") == "file" and "file" not in named:
        raise UserError("-S weights.source=file names no file", allowed="-S weights.file=FILE too")
    if "source" in named:
        weights = named["file"] if named["source"] == "file" else named["source"]
    return {"arch": named.get("arch", arch), "weights": weights}


def layers_of(codes: dict[str, Any]) -> list[str]:
    """Takes the layers out of the keys of the section `codes`; [] if none are named. Raises UserError on no list."""
    layers = codes.pop("layers", [])
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise UserError(f"codes.layers {layers!r}", allowed=f"a list such as [{_usual_layers()}]")
    return layers


def _usual_layers() -> str:
    from pipeline.config import preset_values

    return ", ".join(preset_values()["codes"]["layers"])
