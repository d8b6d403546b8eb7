"""`cnncodes index`: make an index, change it, look into it, check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.base.counting import size
from pipeline.base.errors import UserError
from pipeline.base.front import ExitCode
from pipeline.base.terminal import plain
from pipeline.cli.computing import (
    Arch,
    Device,
    OnError,
    Precision,
    SameDevice,
    SamePrecision,
    Splits,
    WeightsOption,
    names,
    square,
)
from pipeline.cli.listing import FollowLinks, LeaveOut, MaxFailedShare, TestFiles, TrainFiles, dataset, left_out
from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say, table
from pipeline.cli.setting import changes, layers_of, set_option, weights_of
from pipeline.cli.shown import Command, LongCommand

IndexArgument = Annotated[Path, typer.Argument(help="A folder made by `cnncodes index`.")]
SHORT_HASHERS = ("itq", "pca", "lsh", "learned", "supervised", "dbn")


class _BuildByDefault(TyperGroup):
    """`cnncodes index photos/ --out my.index` is `cnncodes index build photos/ --out my.index`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["build", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


index = typer.Typer(
    cls=_BuildByDefault,
    help="Make a searchable index: cnncodes index photos/ --out my.index. Then change it, look into it, check it.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    app.add_typer(index, name="index")


@index.command(cls=LongCommand)
def build(
    images: Annotated[
        Path | None, typer.Argument(help="Folder of images; its first folder level is the label.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="New folder for the index.")],
    train: TrainFiles = None,
    test: TestFiles = None,
    arch: Arch = None,
    weights: WeightsOption = "demo",
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layers to search by cosine, with commas; the short code is made of the first. The last "
            "convolution, averaged, if not given."
        ),
    ] = None,
    long_layer: Annotated[
        str | None,
        typer.Option(help="Layer that the long codes are made of; the last pooling, flattened, if not given."),
    ] = None,
    hasher: Annotated[
        str | None,
        typer.Option(
            help=f"For the short code: {' | '.join(SHORT_HASHERS)}; itq, or lsh for few images, if not given."
        ),
    ] = None,
    bits: Annotated[int, typer.Option(min=8, help="Length of the short code, a multiple of 8 up to 16,384.")] = 64,
    long: Annotated[str, typer.Option(help="Long codes with commas, topk | sigmoid; '' for none.")] = "topk,sigmoid",
    index: Annotated[
        str | None,
        typer.Option(
            help="How the short code is searched: exact compares every image, the others are faster on very many "
            "and may miss some. {index.kind}"
        ),
    ] = None,
    two_stage: Annotated[
        bool,
        typer.Option(
            "--two-stage", help="By default, take the nearest by the short code and put them in order by cosine."
        ),
    ] = False,
    size: Annotated[
        int | None, typer.Option(help="Input side in pixels; 96 is 5 times faster than 224. {codes.image.crop}")
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(help="The centre, the whole image as it is, or the whole made square: {codes.image.view}"),
    ] = None,
    splits: Splits = None,
    device: Device = None,
    precision: Precision = None,
    on_error: OnError = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    set_: Annotated[list[str] | None, set_option("dataset", "weights", "codes", "index")] = None,
    json: JsonFlag = False,
) -> None:
    """Codes, bits and index of a folder of images in one go (`build` may be left out)."""
    from pipeline import collection

    codes = {
        "view": view,
        "device": device,
        "precision": precision,
        **square(size),
        "memory_mb": memory_mb,
        "layers": names(layer) or None,
    }
    data = dataset(leave_out, max_failed_share, follow_links, splits=splits, on_error=on_error)
    chosen = changes(set_, dataset=data, codes=given(codes), index=given({"kind": index}), weights={})
    layers = layers_of(chosen["codes"])
    collection.build(
        images,
        out,
        train=train or (),
        test=test or (),
        **weights_of(chosen["weights"], arch, weights),
        layers=layers,
        long_layer=long_layer,
        hasher=hasher,
        nbits=bits,
        long=names(long),
        codes=chosen["codes"],
        dataset=chosen["dataset"],
        index=chosen["index"],
        two_stage=two_stage,
    )
    about = collection.info(out)
    if json:
        print_json({**about, "left_out": left_out(images)})
    else:
        _show_info(about)


@index.command(cls=LongCommand)
def add(
    folder: IndexArgument,
    images: Annotated[Path, typer.Argument(help="Folder of images; those that are there already cost nothing.")],
    device: SameDevice = None,
    precision: SamePrecision = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    set_: Annotated[list[str] | None, set_option("dataset")] = None,
    json: JsonFlag = False,
) -> None:
    """Add a folder's images, or take in what changed in it."""
    from pipeline.collection import add as run
    from pipeline.config import MEMORY_MB

    done = run(
        folder,
        images,
        dataset=changes(set_, dataset=dataset(leave_out, max_failed_share, follow_links))["dataset"],
        device=device,
        precision=precision,
        memory_mb=memory_mb or MEMORY_MB,
    )
    if json:
        print_json({**done.as_json(), "left_out": left_out(images)})
        return
    say(
        f"{done.added} added, {done.replaced} replaced, {done.moved} moved, {done.relabelled} relabelled, "
        f"{done.known} known; {done.images:,} images"
    )
    if done.note:
        say(done.note)


@index.command(cls=Command)
def remove(
    folder: IndexArgument,
    images: Annotated[list[str] | None, typer.Argument(help="Ids, or files as they were indexed.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="All images whose file is gone.")] = False,
    json: JsonFlag = False,
) -> None:
    """Take images out of the index; their files stay."""
    from pipeline.collection import remove as run

    if not images and not missing:
        raise UserError("nothing to remove was named", allowed="ids, files, or --missing")
    gone = run(folder, images or (), missing=missing)
    if json:
        print_json({"removed": gone})
    else:
        say(f"{len(gone)} removed")


@index.command(cls=Command)
def info(folder: IndexArgument, json: JsonFlag = False) -> None:
    """What is in an index, how it was made with every default spelled out, and how it can be searched."""
    from pipeline.collection import info as run

    about = run(folder)
    if json:
        print_json(about)
    else:
        _show_info(about)


@index.command(cls=LongCommand)
def verify(
    folder: IndexArgument,
    files: Annotated[bool, typer.Option("--files", help="Read every image's file too.")] = False,
    json: JsonFlag = False,
) -> None:
    """Whether an index is whole and its images are where they were. Exit code 1 if not."""
    from pipeline.collection import verify as run

    problems = run(folder, files=files)
    if json:
        print_json({"whole": not problems, "problems": problems})
    else:
        say("\n".join(map(plain, problems)) or f"{folder} is whole")
    if problems:
        raise typer.Exit(ExitCode.FOUND)


def _show_info(about: dict[str, Any]) -> None:
    weights = about["weights"]
    say(f"{about['images']:,} images; index {size(about['index_bytes'])}, network {size(weights['bytes'])}")
    say(f"network: {weights['arch']}, {weights['source']}, sha256 {weights['sha256']}")
    for name, one in [("short code", about["short"]), *(("long code", long) for long in about["long"].values())]:
        params = ", ".join(f"{key} {value}" for key, value in one["params"].items())
        say(f"{name}: {one['hasher']} ({params}) on {one['spec']}, {one['nbits']} bits".replace(" ()", ""))
    if about["short"]["note"]:
        say(f"note: {about['short']['note']}")
    say(_index_line(about["index"], about["short"]["hasher"]))
    for why in about["left_out"].values():
        say(f"left out: {why}")
    for spec, one in about["codes"].items():
        say(f"codes: {spec}, {one['dim']:,} values of {one['dtype']}")
    # The layers have all but their own names and poolings in common.
    for key, value in next(iter(about["codes"].values()))["settings"].items():
        if key not in ("layer", "pooling", "pooling_settings", "sigmoid", "l2", "arch", "weights_sha256", "dtype"):
            say(f"  {key}: {value}")
    for one in about["also"]:
        say(f"some rows: computed on {one['device']} in {one['precision']}")
    for root in about["roots"]:
        say(plain(f"images below {root}"))
    rows = [
        (n, ",".join(m["layers"]), m["index"], f"{m['bytes_per_image']:,}", m["unit"])
        for n, m in about["methods"].items()
    ]
    say("\nmethods, the default one first")
    say(table(("method", "codes", "index", "bytes an image", "distance"), rows))
    kind, by_kind = about["index"]["kind"], [n for n, m in about["methods"].items() if m["index"] != "exact"]
    if by_kind and next(iter(about["methods"])) not in by_kind:
        say(f"the {kind} index answers `search --method {by_kind[0]}` or {by_kind[-1]}; others compare every image")


def _index_line(index: dict[str, Any], hasher: str) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in index["settings"].items())
    line = f"index of {hasher}: {index['kind']}" + (f" ({settings})" if settings else "")
    if index["exact"]:
        return line
    found = f"finds {100 * index['recall_at_10']:.1f} % of the 10 nearest"
    return f"{line}, {found} ({index['measured_queries']:,} stored images asked)"
