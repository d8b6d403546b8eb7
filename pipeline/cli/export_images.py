"""`cnncodes export-images`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.computing import Splits
from pipeline.cli.listing import FollowLinks, LeaveOut, MaxFailedShare, dataset, left_out, made_in
from pipeline.cli.output import JsonFlag, MemoryOption, print_json, say
from pipeline.cli.setting import changes, set_option
from pipeline.cli.shown import Command


class ImagesFormat(StrEnum):
    HDF5 = "hdf5"


class ImagesView(StrEnum):
    CROP = "crop"
    SQUASH = "squash"


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("export-images", cls=Command)(export_images)


def export_images(
    folder: Annotated[
        Path, typer.Argument(help="Folder of images, or one that `cnncodes extract` or DVC filled, for its split.")
    ],
    to: Annotated[ImagesFormat, typer.Option(help="File format: train.h5 and test.h5 as neon reads them.")],
    out: Annotated[Path, typer.Option(help="New folder for train.h5, test.h5 and classes.txt.")],
    size: Annotated[int, typer.Option(min=1, help="Side of the images in pixels.")],
    mean: Annotated[
        bool, typer.Option("--mean", help="Store the mean of train.h5's channels, which neon subtracts.")
    ] = False,
    view: Annotated[ImagesView, typer.Option(help="The centre of each image, or all of it.")] = ImagesView.CROP,
    splits: Splits = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    set_: Annotated[list[str] | None, set_option("dataset")] = None,
    json: JsonFlag = False,
) -> None:
    """Write a folder of images as train.h5 (train and val) and test.h5, in the layout of neon's HDF5Iterator."""
    from pipeline.config import MEMORY_MB
    from pipeline.export_images import export_images as run

    data = dataset(leave_out, max_failed_share, follow_links, splits=splits)
    done = run(
        folder,
        out,
        size=size,
        mean=mean,
        view=view.value,
        dataset=changes(set_, dataset=data)["dataset"],
        memory_mb=memory_mb or MEMORY_MB,
    )
    if json:
        about = {"files": list(map(str, done.files)), "images": done.images, "classes": list(done.classes)}
        print_json({**about, "left_out": left_out(folder, made_in(folder))})
        return
    for file in done.files:
        count = {"train.h5": "train and val", "test.h5": "test"}.get(file.name)
        say(f"{file}: {done.images[file.name]:,} images of {count}" if count else file)
