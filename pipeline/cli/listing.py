"""What all commands that list images share: what they leave out, how many may be broken, and how they tell it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.output import given

LeaveOut = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Files or folders to leave out, as in .gitignore; repeat for more. '!NAME' keeps what a rule leaves out. "
        "Default: none.",
    ),
]
MaxFailedShare = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="The largest share of broken images, 0.05 if not given; the run stops if there are more."
    ),
]

TrainFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--train",
        metavar="FILE",
        help="An HDF5 file of training images, in place of a folder: in neon's layout, or with images and labels; "
        "repeat for more.",
    ),
]
TestFiles = Annotated[
    list[Path] | None,
    typer.Option("--test", metavar="FILE", help="An HDF5 file whose images are all test images; repeat for more."),
]


FollowLinks = Annotated[
    bool | None,
    typer.Option("--follow-links", help="Follow links that lead out of the folder, to any file of this machine."),
]


def dataset(
    leave_out: Sequence[str] | None, max_failed_share: float | None, follow_links: bool | None, **others: Any
) -> dict[str, Any]:
    """The keys of the section `dataset` that were given."""
    chosen = {
        "leave_out": list(leave_out) if leave_out else None,
        "max_failed_share": max_failed_share,
        "follow_links": follow_links,
        **others,
    }
    return given(chosen)


def left_out(images: Path | None, made_in: Path | None = None) -> list[dict[str, str]]:
    """What a command has just left out of a folder of images, for --json: `[{"path", "reason"}, ...]`.

    `made_in`: the folder dataset/ that it made; None if it went away with the command. [] where `images` was no folder
    of images and nothing was listed, and of HDF5 files (None), which hold nothing else.
    """
    if images is None:
        return []
    from pipeline.data.build import kept_failures
    from pipeline.data.manifest import FAILURES, read_failures

    folder = made_in or kept_failures(images)
    found = read_failures(folder) if (folder / FAILURES).is_file() else []
    return [{"path": f.path, "reason": f.reason} for f in found if f.kind in ("left_out", "not_followed")]


def made_in(where: Path | None) -> Path | None:
    """The folder dataset/ of a folder that a run filled; None of a folder of images, or of HDF5 files."""
    if where is None:
        return None
    found = where / "dataset"
    return found if (found / "dataset.json").is_file() else None
