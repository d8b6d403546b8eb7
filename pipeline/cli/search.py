"""`cnncodes index | search | duplicates`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.cli.listing import FollowLinks, LeaveOut, MaxFailedShare, dataset, left_out
from pipeline.cli.output import JsonFlag, MemoryOption, print_json, say, size, table
from pipeline.errors import UserError
from pipeline.front import ExitCode
from pipeline.terminal import plain

if TYPE_CHECKING:
    from pipeline.collection import Answer, Collection

IndexArgument = Annotated[Path, typer.Argument(help="A folder made by `cnncodes index`.")]
_LISTED = 100  # images of a group that are shown; --json has all
MethodOption = Annotated[str | None, typer.Option(help="One of those that `cnncodes index info` lists.")]


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
    """Adds this module's commands."""
    app.add_typer(index, name="index")
    app.command()(search)
    app.command()(duplicates)


@index.command()
def build(
    images: Annotated[Path, typer.Argument(help="Folder of images; its first folder level is the label.")],
    out: Annotated[Path, typer.Option(help="New folder for the index.")],
    arch: Annotated[
        str | None, typer.Option(help="Architecture; what the weights file says of itself, or vgg16, if not given.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="demo | torchvision:IMAGENET1K_V1 | random:SEED | a .pth, .safetensors or .onnx file.")
    ] = "demo",
    layer: Annotated[
        str, typer.Option(help="Of cosine, with commas, the short code's first; if '', the last convolution averaged.")
    ] = "",
    long_layer: Annotated[
        str | None, typer.Option(help="Of the long codes; the last pooling, flattened, if not given.")
    ] = None,
    hasher: Annotated[str | None, typer.Option(help="Of the short code: itq, pca, lsh, learned, dbn, ...")] = None,
    bits: Annotated[int, typer.Option(min=8, help="Length of the short code.")] = 64,
    long: Annotated[str, typer.Option(help="Long codes with commas, '' for none.")] = "topk,sigmoid",
    size: Annotated[int | None, typer.Option(help="Input side in pixels; 96 is 5 times faster than 224.")] = None,
    view: Annotated[str | None, typer.Option(help="crop | squash.")] = None,
    splits: Annotated[str | None, typer.Option(help="folders, if the top folders are train, val, test.")] = None,
    device: Annotated[str | None, typer.Option(help="auto | cpu | cuda | mps.")] = None,
    on_error: Annotated[str | None, typer.Option(help="skip | fail, for files that can't be read.")] = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """Codes, bits and index of a folder of images in one go (`build` may be left out)."""
    from pipeline import collection

    codes = {"view": view, "device": device, "crop": size, "scales": [size] if size else None, "memory_mb": memory_mb}
    collection.build(
        images,
        out,
        arch=arch,
        weights=weights,
        layers=_names(layer),
        long_layer=long_layer,
        hasher=hasher,
        nbits=bits,
        long=_names(long),
        codes={key: value for key, value in codes.items() if value is not None},
        dataset=dataset(leave_out, max_failed_share, follow_links, splits=splits, on_error=on_error),
    )
    about = collection.info(out)
    if json:
        print_json({**about, "left_out": left_out(images)})
    else:
        _show_info(about)


@index.command()
def add(
    folder: IndexArgument,
    images: Annotated[Path, typer.Argument(help="Folder of images; those that are there already cost nothing.")],
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """Add a folder's images, or take in what changed in it."""
    from pipeline.collection import add as run
    from pipeline.config import MEMORY_MB

    done = run(
        folder, images, dataset=dataset(leave_out, max_failed_share, follow_links), memory_mb=memory_mb or MEMORY_MB
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


@index.command()
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


@index.command()
def info(folder: IndexArgument, json: JsonFlag = False) -> None:
    """What is in an index, how it was made with every default spelled out, and how it can be searched."""
    from pipeline.collection import info as run

    about = run(folder)
    if json:
        print_json(about)
    else:
        _show_info(about)


@index.command()
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


def search(
    folder: IndexArgument,
    query: Annotated[str | None, typer.Argument(help="An image file, or the id of an image in the index.")] = None,
    k: Annotated[int | None, typer.Option("-k", help="Neighbours at most; 12 if not given, all with --radius.")] = None,
    radius: Annotated[float | None, typer.Option(help="Only images within this distance.")] = None,
    method: MethodOption = None,
    layer: Annotated[str | None, typer.Option(help="Of those that the method can take, as `info` lists them.")] = None,
    label: Annotated[str | None, typer.Option(help="Only images with this label.")] = None,
    split: Annotated[str | None, typer.Option(help="Only images of this split.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Search from some image of the index.")] = False,
    montage: Annotated[Path | None, typer.Option(help="Picture to make: .png, .jpg or .webp.")] = None,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """The images most like a query."""
    from pipeline.collection import Collection
    from pipeline.config import MEMORY_MB
    from pipeline.data.room import Room

    if (query is None) != random:
        raise UserError("a search needs one query", allowed="an image file, an id, or --random")
    photos = Collection.open(folder, room=Room(memory_mb or MEMORY_MB))
    query_id = _query_id(photos, query)
    file = photos.file(photos.row(query_id)) if query_id else Path(str(query))
    wanted: dict[str, Any] = {"k": k, "radius": radius, "method": method, "layer": layer}
    wanted |= {"label": label, "split": split}
    started_s = time.perf_counter()
    answer = photos.search_id(query_id, **wanted) if query_id else photos.search(file, **wanted)
    took_s = time.perf_counter() - started_s
    if montage is not None:
        _draw(photos, answer, file, query_id, montage)
    if json:
        chosen = answer.method
        about = {"query": str(file), "id": query_id, "method": chosen.name, "layer": chosen.spec}
        print_json(
            {
                **about,
                "distance": chosen.unit,
                "seconds": took_s,
                "neighbours": [n.as_json() for n in answer.neighbours],
            }
        )
    else:
        _show(answer, file)
        if montage is not None:
            say(f"\n{plain(montage)}")


def duplicates(
    folder: IndexArgument,
    radius: Annotated[
        int | None,
        typer.Option(
            help="Bits that may differ between two of a kind; if not given, 8 % of topk's set bits (16 % at 224 px)."
        ),
    ] = None,
    method: MethodOption = None,
    json: JsonFlag = False,
) -> None:
    """Groups of near-identical images: pairs within a Hamming radius, joined."""
    from pipeline.collection import Collection
    from pipeline.collection import duplicates as run

    photos = Collection.open(folder)
    groups, used = run(photos, radius=radius, method=method)
    images = sum(map(len, groups))
    if json:
        members = [[{"id": str(photos.ids[r]), "path": str(photos.file(r))} for r in group] for group in groups]
        print_json({"radius": used, "images": images, "groups": members})
        return
    say(f"{len(groups):,} groups of {images:,} near-identical images, within {used} bits of one another")
    for group in groups:
        say(f"\n{len(group):,} images")
        say("\n".join(plain(f"{photos.ids[r]}  {photos.file(r)}") for r in group[:_LISTED]))
        if len(group) > _LISTED:
            say(f"... and {len(group) - _LISTED:,} more, which --json lists")


def _names(text: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _query_id(photos: Collection, query: str | None) -> str | None:
    """The id that is asked for; None if the query is a file. Raises UserError if it is neither."""
    if query is None:
        return photos.random()
    if os.path.exists(query):  # noqa: PTH110  Path's raises on names that are too long
        return None
    try:
        photos.row(query)
    except UserError:
        raise UserError(
            f"{query!r} is no file, and no id in {photos.folder}", allowed="an image file, an id, or --random"
        ) from None
    return query


def _show(answer: Answer, query: Path) -> None:
    if answer.neighbours:
        say(f"{plain(query)}: {answer.method.name} of {answer.method.spec}, distance: {answer.method.unit}")
        rows = [(n.rank, answer.method.format(n.distance), n.label or "-", n.id, n.path) for n in answer.neighbours]
        say(table(("rank", "distance", "label", "id", "file"), rows))
    elif answer.nearest is not None:
        say(f"no image is within the radius; the nearest is at {answer.method.format(answer.nearest)}")
    else:
        say("there are no other images")


def _draw(photos: Collection, answer: Answer, file: Path, query_id: str | None, path: Path) -> None:
    from pipeline.montage import Tile
    from pipeline.montage import montage as run

    method = answer.method
    label = str(photos.labels[photos.row(query_id)]) if query_id else ""
    digest = photos.digest(photos.row(query_id)) if query_id else ""
    tiles = [
        Tile(n.path, str(n.rank), method.format(n.distance), n.label, photos.digest(photos.row(n.id)))
        for n in answer.neighbours
    ]
    run(
        Tile(file, "query", label=label or file.name, sha256=digest),
        tiles,
        path,
        title=f"{method.name} · {method.spec} · distance: {method.unit}",
        max_pixels=photos.made_by["dataset"]["max_pixels"],
    )


def _show_info(about: dict[str, Any]) -> None:
    weights = about["weights"]
    say(f"{about['images']:,} images; index {size(about['index_bytes'])}, network {size(weights['bytes'])}")
    say(f"network: {weights['arch']}, {weights['source']}, sha256 {weights['sha256']}")
    for name, one in [("short code", about["short"]), *(("long code", long) for long in about["long"].values())]:
        params = ", ".join(f"{key} {value}" for key, value in one["params"].items())
        say(f"{name}: {one['hasher']} ({params}) on {one['spec']}, {one['nbits']} bits".replace(" ()", ""))
    if about["short"]["note"]:
        say(f"note: {about['short']['note']}")
    for why in about["left_out"].values():
        say(f"left out: {why}")
    for spec, one in about["codes"].items():
        say(f"codes: {spec}, {one['dim']:,} values of {one['dtype']}")
    # The layers have all but their own names and poolings in common.
    for key, value in next(iter(about["codes"].values()))["settings"].items():
        if key not in ("layer", "pooling", "pooling_settings", "l2", "arch", "weights_sha256", "dtype"):
            say(f"  {key}: {value}")
    for root in about["roots"]:
        say(plain(f"images below {root}"))
    rows = [(n, ",".join(m["layers"]), m["bytes_per_image"], m["unit"]) for n, m in about["methods"].items()]
    say("\nmethods, the default one first")
    say(table(("method", "codes", "bytes an image", "distance"), rows))
