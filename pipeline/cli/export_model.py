"""`cnncodes export-model`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say
from pipeline.cli.shown import Command


class ModelFormat(StrEnum):
    ONNX = "onnx"
    PT2 = "pt2"


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("export-model", cls=Command)(export_model)


def export_model(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a linear head or a strategy: codes/heads/LAYER-avg-svm, tuned/finetune/frozen."),
    ],
    to: Annotated[ModelFormat, typer.Option(help="ONNX, or a program of torch.export.")],
    out: Annotated[Path, typer.Option(help="The file, which ends in .onnx or .pt2.")],
    weights: Annotated[
        Path | None, typer.Option(help="For a head: the canonical weights file; the workspace's own if not given.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """Write a trained classifier as one file for other programs: pixels in, scores out.

    Its answers are compared with the folder's on 64 images before it is written.
    """
    from pipeline.portable.write import export_model as run

    about = run(folder, to.value, out, weights=weights, replace=replace, **given({"memory_mb": memory_mb}))
    if json:
        print_json({"file": str(out), **about.model_dump(mode="json")})
    else:
        say(f"{out}: {about.head}, {len(about.classes)} classes, images of {about.size} x {about.size} pixels")
