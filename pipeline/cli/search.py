"""`cnncodes search | duplicates`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.errors import UserError
from pipeline.base.terminal import plain
from pipeline.cli.computing import SameDevice, SamePrecision
from pipeline.cli.index import IndexArgument
from pipeline.cli.output import JsonFlag, MemoryOption, print_json, say, table
from pipeline.cli.shown import Command

if TYPE_CHECKING:
    from pipeline.collection import Answer, Collection

_LISTED = 100  # images of a group that are shown; --json has all
MethodOption = Annotated[
    str | None, typer.Option(help="One of those that `cnncodes index info` lists; the first if not given.")
]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command(cls=Command)(search)
    app.command(cls=Command)(duplicates)


def search(
    folder: IndexArgument,
    query: Annotated[str | None, typer.Argument(help="An image file, or the id of an image in the index.")] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Neighbours at most; 12 if not given, all with --radius.")
    ] = None,
    radius: Annotated[float | None, typer.Option(help="Only images within this distance; at any if not given.")] = None,
    method: MethodOption = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer to compare by, one that `index info` lists for the method; the method's own if not given."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Only images with this label; all if not given.")] = None,
    split: Annotated[str | None, typer.Option(help="Only images of this split; all if not given.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every image, though the index is an approximate one.")
    ] = False,
    random: Annotated[bool, typer.Option("--random", help="Search from some image of the index.")] = False,
    montage: Annotated[Path | None, typer.Option(help="Picture to make: .png, .jpg or .webp.")] = None,
    device: SameDevice = None,
    precision: SamePrecision = None,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """The images most like a query."""
    from pipeline.collection import Collection, Where
    from pipeline.collection.montage import require_name
    from pipeline.config import MEMORY_MB
    from pipeline.data.room import Room

    if (query is None) != random:
        raise UserError("a search needs one query", allowed="an image file, an id, or --random")
    if montage is not None:
        require_name(montage)
    photos = Collection.open(folder, where=Where(Room(memory_mb or MEMORY_MB), device, precision))
    query_id = _query_id(photos, query)
    file = photos.file(photos.row(query_id)) if query_id else Path(str(query))
    wanted: dict[str, Any] = {"k": k, "radius": radius, "method": method, "layer": layer}
    wanted |= {"label": label, "split": split, "exact": exact}
    started_s = time.perf_counter()
    answer = photos.search_id(query_id, **wanted) if query_id else photos.search(file, **wanted)
    took_s = time.perf_counter() - started_s
    if montage is not None:
        _draw(photos, answer, file, query_id, montage)
    if json:
        chosen = answer.method
        about = {"query": str(file), "id": query_id, "method": chosen.name, "layer": chosen.spec}
        about["index"] = answer.index
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
            help="Bits that may differ between two copies; if not given, 8 % of topk's set bits (16 % at 224 px)."
        ),
    ] = None,
    method: MethodOption = None,
    json: JsonFlag = False,
) -> None:
    """List groups of near-identical images. Two images are in one group if few bits of their codes differ."""
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
            f"{query!r} is not a file, and no id in {photos.folder}", allowed="an image file, an id, or --random"
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
    from pipeline.collection.montage import Tile
    from pipeline.collection.montage import montage as run

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
