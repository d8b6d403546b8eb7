"""`cnncodes compare | predict`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.base.front import ExitCode
from pipeline.base.terminal import plain
from pipeline.cli.computing import names, numbers
from pipeline.cli.listing import FollowLinks
from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say, table
from pipeline.cli.setting import changes, set_option
from pipeline.cli.shown import Command, LongCommand

MARGINS = "Scores are margins, or votes of neighbours: they order the classes, and are no probabilities."
# By what `transfer.predict` says of a tuned network's scores.
NOT_PROBABILITIES = {
    False: "Scores order the classes and add to 1, but are no probabilities: the network was trained with hinge loss.",
    None: "Scores order the classes and add to 1; whether they are probabilities is not known: the file does not say "
    "which loss the network was trained with.",
}


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command(cls=LongCommand)(compare)
    app.command(cls=Command)(predict)


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="A folder filled by `cnncodes extract` or `dvc repro`. With --out several, of the same images, to "
            "compare their networks."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="For several folders: a folder for the comparison. They stay as they are."),
    ] = None,
    heads: Annotated[str | None, typer.Option(help="With commas, of {heads.heads}")] = None,
    layers: Annotated[str | None, typer.Option(help="Specs with commas; all in the folder if not given.")] = None,
    c_grid: Annotated[
        str | None, typer.Option(help="C of the linear heads to choose among, with commas. {heads.fit.c_grid}")
    ] = None,
    k_grid: Annotated[
        str | None, typer.Option(help="k of knn to choose among, with commas. {heads.fit.k_grid}")
    ] = None,
    set_: Annotated[list[str] | None, set_option("heads", "report")] = None,
    json: JsonFlag = False,
) -> None:
    """Train the heads on every layer's codes and write the comparison page to FOLDER/report.

    With several folders, of other networks on the same images, the page in OUT/report compares networks, layers and
    heads, with what each costs an image; OUT/compare.json has the same figures.
    """
    from pipeline.base import json_files
    from pipeline.networks import compare_networks
    from pipeline.workspace import Workspace
    from pipeline.workspace import compare as run

    grids: dict[str, Any] = {"heads": names(heads)} if names(heads) else {}
    if c_grid is not None:
        grids["c_grid"] = numbers("--c-grid", c_grid, float)
    if k_grid is not None:
        grids["k_grid"] = numbers("--k-grid", k_grid, int)
    chosen = changes(set_, heads=grids, report={})
    if out is not None or len(folders) > 1:
        if out is None:
            raise UserError(
                f"{counted(len(folders), 'folder')} and no place for the comparison", allowed="--out FOLDER"
            )
        page = compare_networks(
            folders,
            out=out,
            layers=names(layers),
            head_params=chosen["heads"],
            report_params=chosen["report"],
        )
        found = json_files.read(out / "compare.json")
        if json:
            print_json(found)
            return
        say(table(COMPARED, map(_compared, found["rows"])))
        say(plain(page))
        return
    (folder,) = folders
    space = Workspace.open(folder)
    page = run(
        space,
        specs=[space.codes(spec).spec for spec in names(layers)] or None,
        head_params=chosen["heads"],
        report_params=chosen["report"],
    )
    if json:
        print_json(json_files.read(page.with_name("metrics.json")))
    else:
        say(plain(page))


COMPARED = ("network", "layer", "head", "mean", "", "an image", "a code")


def _compared(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of compare.json for people; behind the mean whether it can be told from the best."""
    sd, took = row["sd"], row["seconds_per_image"]
    return (
        row["network"],
        row["layer"],
        row["head"],
        f"{100 * row['mean']:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}") + " %",
        {"best": "best", "noise": "within noise of it"}.get(row["verdict"], ""),
        "" if took is None else f"{1000 * took:.3g} ms",
        f"{row['bytes']:,.0f} B",
    )


def predict(
    head: Annotated[
        Path,
        typer.Argument(
            help="A folder of a head or a strategy (codes/heads/LAYER-avg-svm, tuned/finetune/frozen), or a .onnx file "
            "that `export-model` wrote."
        ),
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders for all that are below them.")],
    weights: Annotated[
        Path | None, typer.Option(help="For a head: the canonical weights file; the workspace's own if not given.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="For a strategy: a name that `cnncodes checkpoints` lists; the best epoch's if not given."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 3,
    device: Annotated[
        str | None,
        typer.Option(
            help="{codes.compute.device:choices}; that of the head's codes if not given, for a tuned network cpu."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="{codes.compute.precision:choices}; that of the head's codes if not given, for a tuned network fp32."
        ),
    ] = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """Labels and scores for new images, by a head and the network its codes came from, or by a tuned network.

    Exit code 3 if there are answers for some images only: the others are listed with the reason.
    """
    from pipeline import transfer
    from pipeline.heads.predict import predict as by_head
    from pipeline.portable import is_model

    named = {"device": device, "precision": precision, "memory_mb": memory_mb}
    how = given(named)
    how["follow_links"] = bool(follow_links)
    tuned = checkpoint is not None or transfer.is_tuned(head)
    if is_model(head):
        from pipeline.portable import read as portable

        _require_none(head, weights=weights, checkpoint=checkpoint, device=device, precision=precision)
        model = portable.load(head)
        tuned = model.about.codes is None
        answers = portable.predict(model, images, top=top, **how)
    elif tuned:
        answers = transfer.predict(head, images, top=top, checkpoint=checkpoint, **how)
    else:
        answers = by_head(head, images, weights=weights, top=top, **how)
    good = [a for a in answers if "classes" in a]
    bad = [a for a in answers if "error" in a]
    if json:
        print_json(answers)
    else:
        rows = [(a["image"], i + 1, c["label"], f"{c['score']:.3f}") for a in good for i, c in enumerate(a["classes"])]
        known = good[0]["probabilities"]
        say(table(("image", "rank", "label", "probability" if known else "score"), rows))
        if not known:
            say(NOT_PROBABILITIES[known] if tuned else MARGINS)
    for answer in bad:
        say(plain(f"{answer['image']}: {answer['error']}"), err=True)
    if bad:
        say(f"{len(bad)} of {len(answers)} images have no answer", err=True)
        raise typer.Exit(ExitCode.UNANSWERED)


def _require_none(file: Path, **options: Any) -> None:
    if wrong := [f"--{name}" for name in given(options)]:
        raise UserError(
            f"{', '.join(wrong)} with the file {file}, which runs by itself on the processor",
            allowed="these options with a folder of a head or a strategy",
        )
