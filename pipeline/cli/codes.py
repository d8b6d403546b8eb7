"""`cnncodes extract | layers | info | export | cache`."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.base.counting import size
from pipeline.base.errors import UserError
from pipeline.base.front import ExitCode
from pipeline.base.terminal import plain
from pipeline.cli import export_images
from pipeline.cli.computing import Arch, Device, OnError, Precision, Size, Splits, WeightsOption, names, numbers
from pipeline.cli.listing import FollowLinks, LeaveOut, MaxFailedShare, TestFiles, TrainFiles, dataset, left_out
from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say, table
from pipeline.cli.setting import changes, layers_of, set_option, weights_of
from pipeline.cli.shown import Command, LongCommand

cache = typer.Typer(help="The store of all codes ever computed here.", no_args_is_help=True)
WorkspaceArgument = Annotated[Path, typer.Argument(help="A folder filled by `cnncodes extract` or `dvc repro`.")]


class ExportFormat(StrEnum):
    NPY = "npy"
    PARQUET = "parquet"
    NEON_HDF5 = "neon-hdf5"


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command(cls=LongCommand)(extract)
    app.command(cls=Command)(layers)
    app.command(cls=Command)(info)
    app.command(cls=Command)(export)
    export_images.register(app)
    app.add_typer(cache, name="cache")


def extract(
    images: Annotated[
        Path | None, typer.Argument(help="Folder of images; its first folder level is the class.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the codes.")],
    train: TrainFiles = None,
    test: TestFiles = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="LAYER or LAYER-POOLING[-sigmoid][-l2], with commas; `cnncodes layers` lists them. {codes.layers}"
        ),
    ] = None,
    arch: Arch = None,
    weights: WeightsOption = "demo",
    pooling: Annotated[
        str, typer.Option(help="For layers that name none: flatten | avg | max | spp | gem; cls | patchavg of tokens.")
    ] = "avg",
    view: Annotated[
        str | None,
        typer.Option(help="The centre, the whole image as it is, or the whole made square: {codes.image.view}"),
    ] = None,
    size: Size = None,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Sizes at which the network sees each image, as its shorter side in pixels: 256,384,512. "
            "{codes.image.scales}"
        ),
    ] = None,
    flip: Annotated[bool | None, typer.Option(help="Add the mirrored view. {codes.image.flip}")] = None,
    combine: Annotated[
        str | None, typer.Option(help="What becomes of the codes of several scales: {codes.image.combine}")
    ] = None,
    precision: Precision = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the stored values: {codes.dtype}")] = None,
    device: Device = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Views in one pass of the network. {codes.compute.batch_size}")
    ] = None,
    reduced_decode: Annotated[
        bool | None, typer.Option(help="Decode large JPEGs at a reduced scale. {codes.image.reduced_decode}")
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(help="Compile the network (torch.compile): slow to begin, then faster. {codes.compute.compile}"),
    ] = None,
    splits: Splits = None,
    on_error: OnError = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only the i-th of n shares, for several machines; all if not given.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop codes in OUT that are of other images, weights or settings.")
    ] = False,
    set_: Annotated[list[str] | None, set_option("dataset", "weights", "codes")] = None,
    json: JsonFlag = False,
) -> None:
    """Run images through the network once and keep the activations of the layers you chose."""
    from pipeline.workspace import extract as run

    codes: dict[str, Any] = {
        "view": view,
        "flip": flip,
        "combine": combine,
        "precision": precision,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "memory_mb": memory_mb,
        "reduced_decode": reduced_decode,
        "compile": compile,
        "crop": size,
        "scales": numbers("--scales", scales, int) if scales else [size] if size else None,
        "layers": _specs(layers, pooling) if layers else None,
    }
    data = dataset(leave_out, max_failed_share, follow_links, splits=splits, on_error=on_error)
    chosen = changes(set_, dataset=data, codes=given(codes), weights={})
    wanted = layers_of(chosen["codes"])
    space = run(
        images,
        out=out,
        train=train or (),
        test=test or (),
        layers=wanted or None,
        **weights_of(chosen["weights"], arch, weights),
        dataset=chosen["dataset"],
        codes=chosen["codes"],
        shard=_share(shard) if shard else None,
        replace=replace,
    )
    # A share goes into the store alone: the parts are of all images.
    about = {} if shard else {spec: _about(space.codes(spec)) for spec in space.specs()}
    if json:
        print_json({**about, "left_out": left_out(images, out / "dataset")})
    elif shard:
        say(f"share {shard} is in the store; once all shares are, the same without --shard writes {out}")
    else:
        rows = [(name, f"{a['images']:,}", a["dim"], a["dtype"]) for name, a in about.items()]
        say(table(("codes", "images", "dim", "dtype"), rows))


def layers(
    arch: Annotated[str | None, typer.Option(help="{weights.arch} Or a variant's name.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels; the native one if not given.")] = None,
    json: JsonFlag = False,
) -> None:
    """The layers of an architecture: name, shape, stride, receptive field, bytes a code (float16, flattened)."""
    from pipeline.config import preset_values
    from pipeline.nets import backbone

    known = backbone.find(arch or preset_values()["weights"]["arch"])
    arch = known.arch
    side = size or known.native_size
    if size:
        known.require_size(size, size)
    rows: list[dict[str, Any]] = []
    for layer in known.layers():
        try:
            shape = known.shape(layer.name, side, side)
        except UserError:
            continue
        values = math.prod(shape)
        rows.append(
            {
                "name": layer.name,
                "shape": list(shape),
                "stride": layer.stride,
                "receptive_field": layer.receptive_field,
                "bytes_flatten": 2 * values,
                "bytes_avg": 2 * layer.channels,
            }
        )
    if not rows:
        raise UserError(f"no layer of {arch} fits an input of {side} px", allowed="a larger --size")
    if json:
        print_json({"arch": arch, "size": side, "layers": rows})
        return
    say(f"{arch} at {side} x {side}; bytes of a code in float16{known.note}")
    say(
        table(
            ("layer", "shape", "stride", "receptive field", "bytes flattened", "bytes averaged"),
            [
                (
                    r["name"],
                    "x".join(map(str, r["shape"])),
                    r["stride"] or "",
                    r["receptive_field"] or "",
                    f"{r['bytes_flatten']:,}",
                    f"{r['bytes_avg']:,}",
                )
                for r in rows
                if not known.require(r["name"]).inner
            ],
        )
    )


def info(folder: WorkspaceArgument, json: JsonFlag = False) -> None:
    """What is in a folder of codes, how it was made with every default spelled out, and whether it is whole."""
    from pipeline.codes import info as codes_info
    from pipeline.workspace import Workspace

    space = Workspace.open(folder)
    found = {spec: codes_info(folder / "codes" / spec) for spec in space.specs()}
    if json:
        print_json(found)
    else:
        for spec, about in found.items():
            say(f"{spec}: {about['images']:,} images x {about['dim']} {about['dtype']}, {size(about['bytes'])}")
            say(f"  {'whole' if about['whole'] else 'NOT WHOLE: ' + about['problem']}")
            for key, value in about["settings"].items():
                say(f"  {key}: {value}")
    if not all(about["whole"] for about in found.values()):
        raise typer.Exit(ExitCode.FOUND)


def export(
    folder: WorkspaceArgument,
    layer: Annotated[str, typer.Option(help="A spec in the folder, or its layer if that is clear.")],
    to: Annotated[ExportFormat, typer.Option(help="File format.")],
    out: Annotated[
        Path | None, typer.Option(help="File or folder to write; named after the spec if not given.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over files that are there.")] = False,
) -> None:
    """Copy codes into another tool's format."""
    from pipeline.base.writable import require_writable
    from pipeline.codes import export as run
    from pipeline.workspace import Workspace

    space = Workspace.open(folder)
    codes = space.codes(layer)
    suffix = {ExportFormat.NPY: ".npy", ExportFormat.PARQUET: ".parquet", ExportFormat.NEON_HDF5: ".h5"}[to]
    target = out or Path(codes.spec + suffix)
    if to is ExportFormat.NPY:
        target = target.with_suffix(suffix)  # as numpy asks
    if target.exists() and not replace:
        raise UserError(f"{target} exists", allowed="another --out, or --replace")
    require_writable(target, folder=False)
    for written in run(codes, to=to.value, path=target, manifest=space.manifest()):
        say(plain(written))


@cache.command("size", cls=Command)
def cache_size(json: JsonFlag = False) -> None:
    """Bytes of the store by kind of code, and of what training keeps."""
    from pipeline.base.cache import cache_root, training_sizes
    from pipeline.codes import store_sizes

    rows = store_sizes(cache_root()) + training_sizes(cache_root())
    if json:
        print_json(rows)
        return
    say(f"{cache_root()}: {size(sum(r['bytes'] for r in rows))}")
    if rows:
        say(
            table(
                ("key", "codes", "images", "size"),
                [(r["key"][:15], r["name"], r["images"] or "", size(r["bytes"])) for r in rows],
            )
        )


@cache.command("gc", cls=Command)
def cache_gc(
    keep: Annotated[list[Path], typer.Option(help="A workspace whose codes stay; repeat for more.")],
    training: Annotated[
        bool, typer.Option("--training", help="Drop what training keeps too, also the checkpoints of unfinished runs.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Drop from the store all codes but those of the workspaces you name. Codes in the workspaces stay."""
    from pipeline.base.cache import cache_root, training_gc
    from pipeline.codes import store_gc
    from pipeline.workspace import Workspace

    spaces = [Workspace.open(path) for path in keep]
    freed = store_gc(cache_root(), keep=[space.codes(spec) for space in spaces for spec in space.specs()])
    if training:
        freed += training_gc(cache_root())
    if json:
        print_json({"freed_bytes": freed})
    else:
        say(f"freed {size(freed)}")


def _specs(text: str, pooling: str) -> list[str]:
    from pipeline.config import LayerSpec

    return [LayerSpec.parse(part, pooling=pooling).name for part in names(text)]


def _share(text: str) -> tuple[int, int]:
    parts = text.split("/")
    if len(parts) == 2 and all(p.isdigit() for p in parts) and 1 <= int(parts[0]) <= int(parts[1]):
        return int(parts[0]), int(parts[1])
    raise UserError(f"--shard {text!r} is not i/n", allowed="1/4 to 4/4, for four machines")


def _about(codes: Any) -> dict[str, Any]:
    return {"images": len(codes), "dim": codes.dim, "dtype": str(codes.dtype), "fingerprint": codes.fingerprint}
