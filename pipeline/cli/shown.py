"""Choices and defaults in `--help`, taken from where they are decided: the models of `config` and the preset.

```python
Optimiser = Annotated[str | None, typer.Option(help="Of the steps: {finetune.optimiser.kind}")]
app.command(cls=Command)(finetune)
```
`--help` then says "Of the steps: sgd | adam | ... Default: adam." The key stands where its choices should; one without
choices gives its default alone ("Epochs. {finetune.loop.epochs}" -> "Epochs. Default: 10."), and one that names things
to choose from gives their names alone (`{finetune.strategies}`). Keys go as deep as the section does:
`{finetune.optimiser.schedule.kind}`; `{codes.compute.device:choices}` gives the choices alone. They are looked up when
a help text is printed and not before, so that nothing else waits for it.
"""

from __future__ import annotations

import re
import typing
from functools import cache
from typing import Any, Literal

from typer.core import TyperArgument, TyperCommand, TyperOption

from pipeline.base import stopping

_KEY = re.compile(r"\{(\w+(?:\.\w+)+)(:choices)?\}")


class Command(TyperCommand):
    """A command whose options name keys of the configuration in their help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for param in self.params:
            if isinstance(param, TyperArgument | TyperOption) and param.help:
                param.help = filled(param.help)
        super().format_help(ctx, formatter)


class LongCommand(Command):
    """One that keeps what is done, so that the same command goes on after a stop."""

    def invoke(self, ctx: Any) -> Any:
        with stopping.says(lambda: stopping.KEPT):
            return super().invoke(ctx)


def filled(text: str) -> str:
    """`text` with each {section.key} replaced by what `said` says of it. Raises KeyError of a key that is not there."""
    return _KEY.sub(lambda found: " | ".join(choices(found[1])) if found[2] else said(found[1]), text)


def said(key: str) -> str:
    """ "a | b. Default: a." of a key such as `finetune.optimiser.kind`; "Default: 10." without a closed choice."""
    _, value = _found(key)
    allowed = " | ".join(choices(key))
    if isinstance(value, dict):
        return f"{allowed}."
    default = f"Default: {_plain(value)}."
    return f"{allowed}. {default}" if allowed else default


def choices(key: str) -> list[str]:
    """The values that a key may have; [] if they are no closed set."""
    annotations, value = _found(key)
    if isinstance(value, dict):
        return list(value)
    if key in _OPEN:
        return _OPEN[key]()
    return [c for one in annotations for c in _choices(one)]


def _found(key: str) -> tuple[list[Any], Any]:
    """The types of a key, and its value in the preset. Raises KeyError of a key that is not there."""
    from pipeline.config import PRESET_SECTIONS
    from pipeline.config.keys import types_at

    section, *names = key.split(".")
    value: Any = _preset()[section]
    for name in names:
        value = value[name]
    return types_at(PRESET_SECTIONS[section], names), value


def _architectures() -> list[str]:
    from pipeline.nets.backbone import archs

    return archs()


def _heads() -> list[str]:
    from pipeline.nets.backbone import heads

    return heads()


# The closed sets that the models of `config` don't know.
_OPEN = {"weights.arch": _architectures, "finetune.model.head": _heads}


def _choices(annotation: Any) -> list[str]:
    """Of a Literal, or of a list of them; [] of anything open."""
    if typing.get_origin(annotation) is list:
        (annotation,) = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return [str(choice) or '""' for choice in typing.get_args(annotation)]
    return []


def _plain(value: Any) -> str:
    """As it is written on a command line: lists with commas, switches as yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(_plain, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "none"


@cache
def _preset() -> dict[str, Any]:
    from pipeline.config import PRESET_SECTIONS, preset_values
    from pipeline.config.layout import grouped

    return {name: grouped(PRESET_SECTIONS[name], values) for name, values in preset_values().items()}
