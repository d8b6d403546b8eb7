"""`cnncodes weights reference`: what images like the source's look like to a network, for `cnncodes advise`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.errors import UserError
from pipeline.cli.advise import plan_of
from pipeline.cli.computing import Device, Precision, names, square
from pipeline.cli.listing import FollowLinks, LeaveOut, MaxFailedShare, dataset, left_out
from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say
from pipeline.cli.setting import changes, layers_of, set_option, weights_of
from pipeline.cli.shown import Command

if TYPE_CHECKING:
    from pipeline.config import CodesParams
    from pipeline.data.manifest import Manifest
    from pipeline.workspace import Workspace

# What may be another than the codes of --like have: it changes no more than their rounding.
COMPUTED = ("device", "precision", "memory_mb")


def register(weights: typer.Typer) -> None:
    """Adds this module's command to the group `weights`."""
    weights.command(cls=Command)(reference)


def reference(
    folder: Annotated[Path, typer.Argument(help="Images like those that the network was trained on.")],
    like: Annotated[
        Path | None, typer.Option(help="A folder of codes: its weights, layers and preprocessing are taken.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; in the cache, where advice finds it.")] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Without --like. {weights.arch} A weights file that names its architecture decides."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Without --like: demo | torchvision:IMAGENET1K_V1 | random:SEED | a weights file.")
    ] = "demo",
    layers: Annotated[
        str | None,
        typer.Option(help="Specs with commas, without --like; as in `cnncodes advise` if not given."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Input side in pixels, without --like. {codes.image.crop}")] = None,
    device: Device = None,
    precision: Precision = None,
    images: Annotated[int, typer.Option(min=64, help="Where the folder has more, this number is drawn.")] = 2000,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    set_: Annotated[list[str] | None, set_option("dataset", "weights", "codes")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure a network's codes on images like those it was trained on, so that `advise` can tell how far yours are."""
    from pipeline import config
    from pipeline.advice import reference as references
    from pipeline.base.cache import cache_root, working_folder
    from pipeline.base.writable import require_writable
    from pipeline.codes import extract
    from pipeline.codes.plan import check
    from pipeline.codes.weights_header import WeightsHeader
    from pipeline.data.build import build
    from pipeline.workspace import Workspace, canonical_weights, network, preset

    if out is not None:
        require_writable(out, folder=False)
    named: dict[str, Any] = {"device": device, "precision": precision, "memory_mb": memory_mb}
    named |= square(size) | {"layers": names(layers) or None}
    listing = dataset(leave_out, max_failed_share, follow_links)
    chosen = changes(set_, dataset=listing, codes=given(named), weights={})
    changed, wanted = chosen["codes"], layers_of(chosen["codes"])
    came_from = weights_of(chosen["weights"], arch, weights)
    if like is not None:
        space = Workspace.open(like)
        if other := [*(changed.keys() - set(COMPUTED)), *chosen["weights"], *(["layers"] if wanted else [])]:
            raise UserError(f"{', '.join(sorted(other))} with --like {like}, which has its own", allowed=COMPUTED)
        params, file = _params_like(space, changed), space.weights_file
    else:
        specs = plan_of(layers=wanted, codes=changed, **came_from).specs
        source, view = network(**came_from)
        params = preset(config.CodesParams, **(view | changed | {"layers": specs}))
        file = canonical_weights(source, cache_root())
    check(WeightsHeader.of(file), params)
    with working_folder() as scratch:
        data = preset(config.DatasetParams, source="folder", root=str(folder), **chosen["dataset"])
        listed = build(data, scratch / "dataset", labels_needed=False, fleeting=True, memory_mb=params.memory_mb)
        manifest = _drawn(listed, images)
        codes = extract(manifest, file, params, scratch / "codes")
        made = references.make(codes, name=folder.resolve().name)
        path = out or references.default_path(next(iter(codes.values())).settings, cache_root())
        mark = references.write(made, path)
    if json:
        about = {"file": str(path), "images": len(manifest), "codes": list(codes), "fingerprint": mark}
        print_json({**about, "left_out": left_out(folder)})
    else:
        say(f"{path}: {', '.join(codes)} of {len(manifest):,} images")


def _params_like(space: Workspace, others: dict[str, Any]) -> CodesParams:
    """The codes section that would make a workspace's codes again, but for what changes no more than their rounding."""
    from pipeline.codes import Settings
    from pipeline.config import CodesParams
    from pipeline.workspace import preset

    specs = space.specs()
    made = Settings.from_json(space.codes(specs[0]).settings)
    changed: dict[str, Any] = {
        "layers": specs,
        "view": made.view,
        "scales": list(made.scales),
        "flip": made.flip,
        "combine": made.combine,
        "background": list(made.background),
        "reduced_decode": made.reduced_decode,
    }
    if made.crop is not None:
        changed["crop"] = made.crop
    return preset(CodesParams, **changed, **others)


def _drawn(manifest: Manifest, most: int) -> Manifest:
    """At most so many images, by their ids: what a file holds decides, not where it lies."""
    import numpy as np

    # Ids begin with a sha256, so that the first are a fair draw.
    rows = np.arange(min(most, len(manifest)))
    columns = ("ids", "paths", "labels", "groups", "sha256", "widths", "heights")
    taken = {name: getattr(manifest, name)[rows] for name in columns}
    if manifest.decoders is not None:
        taken["decoders"] = manifest.decoders[rows]
    return dataclasses.replace(manifest, **taken, splits=manifest.splits[:, rows])
