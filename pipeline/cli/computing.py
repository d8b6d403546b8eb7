"""What all commands that run images through a network share."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import typer

from pipeline.base.errors import UserError

N = TypeVar("N", int, float)

Arch = Annotated[str | None, typer.Option(help="{weights.arch} A weights file that names its architecture decides.")]
WeightsOption = Annotated[
    str,
    typer.Option(
        help="demo | pretrained[:TAG] | torchvision:IMAGENET1K_V1 | random:SEED | a .pth, .safetensors or .onnx file."
    ),
]
Size = Annotated[
    int | None, typer.Option(help="Side in pixels of the square that the network sees. {codes.image.crop}")
]
Device = Annotated[str | None, typer.Option(help="{codes.compute.device}")]
Precision = Annotated[
    str | None, typer.Option(help="Numbers that the network computes with: {codes.compute.precision}")
]
Splits = Annotated[str | None, typer.Option(help="Whether the top folders are train, val and test: {dataset.splits}")]
OnError = Annotated[str | None, typer.Option(help="For files that can't be read: {dataset.on_error}")]

# Of commands that go on with codes which are there.
SameDevice = Annotated[
    str | None, typer.Option("--device", help="{codes.compute.device:choices}; that of the codes if not given.")
]
SamePrecision = Annotated[
    str | None, typer.Option("--precision", help="{codes.compute.precision:choices}; that of the codes if not given.")
]


def square(size: int | None) -> dict[str, Any]:
    """The keys of the section `codes` that a --size sets: the side of the input, and the scale before it."""
    return {} if size is None else {"crop": size, "scales": [size]}


def names(text: str | None) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def numbers(option: str, text: str, kind: type[N]) -> list[N]:
    """Numbers between commas. Raises UserError, which names the option, if one is none."""
    try:
        return [kind(part) for part in names(text)]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{option} {text!r} is not a list of {wanted}", allowed="such as 1,3,5") from None
