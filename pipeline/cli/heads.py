"""`cnncodes compare | predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.codes import WorkspaceArgument
from pipeline.cli.listing import FollowLinks
from pipeline.cli.output import JsonFlag, MemoryOption, print_json, say, table
from pipeline.front import ExitCode
from pipeline.terminal import plain

MARGINS = "Scores are margins, or votes of neighbours: they order the classes, and are no probabilities."
# By what `transfer.predict` says of a tuned network's scores.
NOT_PROBABILITIES = {
    False: "Scores order the classes and add to 1, but are no probabilities: the network was trained with hinge loss.",
    None: "Scores order the classes and add to 1; whether they are probabilities is not known: the file does not say "
    "which loss the network was trained with.",
}


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command()(compare)
    app.command()(predict)


def compare(
    folder: WorkspaceArgument,
    heads: Annotated[str, typer.Option(help="With commas: svm,svm_cs,softmax,softmax_l1,softmax_elastic,knn.")] = "",
    layers: Annotated[str, typer.Option(help="Specs with commas; all in the folder if not given.")] = "",
    json: JsonFlag = False,
) -> None:
    """Train the heads on every layer's codes and write the comparison page to FOLDER/report."""
    from pipeline import schema
    from pipeline.workspace import Workspace
    from pipeline.workspace import compare as run

    space = Workspace.open(folder)
    page = run(
        space,
        heads=[h.strip() for h in heads.split(",")] if heads else None,
        specs=[space.codes(s.strip()).spec for s in layers.split(",")] if layers else None,
    )
    if json:
        print_json(schema.read_json(page.with_name("metrics.json")))
    else:
        say(plain(page))


def predict(
    head: Annotated[
        Path,
        typer.Argument(help="A folder of a head or a strategy: codes/heads/conv5_2-avg-svm, tuned/finetune/frozen."),
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders for all that are below them.")],
    weights: Annotated[
        Path | None, typer.Option(help="Of a head: the canonical weights file; the workspace's own if not given.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 3,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """Labels and scores for new images, by a head and the network its codes came from, or by a tuned network.

    Exit code 3 if there are answers for some images only: the others are listed with the reason.
    """
    from pipeline import query, transfer
    from pipeline.config import MEMORY_MB

    memory_mb = memory_mb or MEMORY_MB
    if transfer.is_tuned(head):
        answers = transfer.predict(head, images, top=top, memory_mb=memory_mb, follow_links=bool(follow_links))
    else:
        answers = query.predict(
            head, images, weights=weights, top=top, memory_mb=memory_mb, follow_links=bool(follow_links)
        )
    good = [a for a in answers if "classes" in a]
    bad = [a for a in answers if "error" in a]
    if json:
        print_json(answers)
    else:
        rows = [(a["image"], i + 1, c["label"], f"{c['score']:.3f}") for a in good for i, c in enumerate(a["classes"])]
        known = good[0]["probabilities"]
        say(table(("image", "rank", "label", "probability" if known else "score"), rows))
        if not known:
            say(NOT_PROBABILITIES[known] if transfer.is_tuned(head) else MARGINS)
    for answer in bad:
        say(plain(f"{answer['image']}: {answer['error']}"), err=True)
    if bad:
        say(f"{len(bad)} of {len(answers)} images have no answer", err=True)
        raise typer.Exit(ExitCode.UNANSWERED)
