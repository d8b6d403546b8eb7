"""`cnncodes checkpoints`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.base.counting import size
from pipeline.cli.output import JsonFlag, print_json, say, table


def checkpoints(
    folder: Annotated[Path, typer.Argument(help="A strategy's folder (tuned/finetune/frozen), or one of several.")],
    json: JsonFlag = False,
) -> None:
    """The checkpoints that `finetune --keep-every N` kept: epoch, validation and test accuracy.

    `predict FOLDER --checkpoint NAME` answers by one, `finetune --resume FILE` goes on from one. Test accuracy is
    measured when the training of a split has ended. Choose a checkpoint by its validation accuracy.
    """
    from pipeline.transfer import checkpoints as run

    found = run(folder)
    if json:
        print_json(found)
    elif found:
        header = ("strategy", "checkpoint", "epoch", "val loss", "val accuracy", "test accuracy", "best so far", "size")
        say(table(header, map(_row, found)))
    else:
        say(f"{folder} has no checkpoints: `cnncodes finetune --keep-every N` keeps one every N epochs")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["strategy"],
        one["name"],
        str(one["epoch"]),
        "-" if one["val_loss"] is None else f"{one['val_loss']:.3f}",
        *("-" if one[key] is None else f"{100 * one[key]:.1f} %" for key in ("val_accuracy", "test_accuracy")),
        "yes" if one["best_so_far"] else "",
        size(one["bytes"]),
    )
