"""How commands answer: a table for people, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from pipeline.base.terminal import plain, plain_json

# Of whatever decodes images; None is the preset's.
MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--memory-mb",
        min=16,
        help="Memory for the images that are being read, 4096 if not given; an image that needs more is left out.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were given: what is None is left to the preset."""
    return {key: value for key, value in options.items() if value is not None}


def say(text: object = "", *, err: bool = False) -> None:
    """Prints lines for people. Names and labels in them come from strangers: see `pipeline.base.terminal`."""
    typer.echo(plain(text, lines=True), err=err)


def print_json(value: Any) -> None:
    typer.echo(plain_json(json.dumps(value, indent=2, ensure_ascii=False)))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned by their widest cell: numbers to the right, words to the left."""
    cells = [list(header), *([plain(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = [
        "  ".join(
            c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()
