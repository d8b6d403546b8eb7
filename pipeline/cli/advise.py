"""`cnncodes advise`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.errors import UserError
from pipeline.base.front import ExitCode
from pipeline.cli.computing import names, square
from pipeline.cli.listing import FollowLinks, LeaveOut, MaxFailedShare, TestFiles, TrainFiles, dataset, left_out
from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say, table
from pipeline.cli.setting import changes, layers_of, set_option, weights_of
from pipeline.cli.shown import LongCommand

if TYPE_CHECKING:
    from pipeline.advice.reference import Reference


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command(cls=LongCommand)(advise)


def advise(
    folder: Annotated[
        Path | None, typer.Argument(help="Images whose first folder level is the class, or a folder of codes.")
    ] = None,
    train: TrainFiles = None,
    test: TestFiles = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep the codes of the images, and the advice, in this folder.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A file of `cnncodes weights reference`; the cache's if not given.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Specs with commas; all in a folder of codes, or all upper layers for images, if not given."),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="For images: {weights.arch} A weights file that names its architecture decides.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="For images: demo | torchvision:IMAGENET1K_V1 | random:SEED | a weights file.")
    ] = "demo",
    size: Annotated[int | None, typer.Option(help="Input side in pixels, for images. {codes.image.crop}")] = None,
    device: Annotated[str | None, typer.Option(help="For images: {codes.compute.device}")] = None,
    precision: Annotated[str | None, typer.Option(help="For images: {codes.compute.precision}")] = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop codes in OUT that are of other images, weights or settings.")
    ] = False,
    set_: Annotated[list[str] | None, set_option("dataset", "weights", "codes", "heads", "advise")] = None,
    json: JsonFlag = False,
) -> None:
    """Say which layer to transfer, how, and whether it is worth it, with the numbers. Only training images are used."""
    from pipeline.advice.run import advise as run
    from pipeline.advice.run import write
    from pipeline.base.cache import working_folder
    from pipeline.base.skipped import reason_in
    from pipeline.config import AdviseParams, HeadsParams
    from pipeline.workspace import Workspace, extract, images_section, preset

    files: dict[str, Any] = {"train": train or (), "test": test or ()}
    images_section(folder, **files)
    keys = given({"device": device, "precision": precision, "memory_mb": memory_mb}) | square(size)
    keys |= {"layers": names(layers)} if names(layers) else {}
    data = dataset(leave_out, max_failed_share, follow_links)
    chosen = changes(set_, dataset=data, weights={}, codes=keys, heads={}, advise={})
    how = preset(AdviseParams, **chosen["advise"]), preset(HeadsParams, **chosen["heads"])
    wanted, network = layers_of(chosen["codes"]), weights_of(chosen["weights"], arch, weights)
    for_images = {
        "--out": out,
        "--arch": arch,
        "--weights": None if weights == "demo" else weights,
        "--size": size,
        "--device": device,
        "--precision": precision,
        "--leave-out": leave_out,
        "--max-failed-share": max_failed_share,
        "--follow-links": follow_links,
        "-S": [text for text in set_ or () if text.partition(".")[0] in ("dataset", "weights", "codes")] or None,
    }
    with contextlib.ExitStack() as stack:
        if folder is not None and any(folder.glob("codes/*/codes.json")):
            if unused := given(for_images):
                raise UserError(f"{', '.join(unused)} with {folder}, which holds codes", allowed="a folder of images")
            space = Workspace.open(folder)
            specs = [space.codes(spec).spec for spec in wanted] or space.specs()
            known = _reference(reference, {spec: space.codes(spec).settings for spec in specs})
        else:
            plan = plan_of(layers=wanted, codes=chosen["codes"], **network)
            specs, known = plan.specs, _reference(reference, plan.settings)
            kept = out or stack.enter_context(working_folder())
            space = extract(
                folder,
                **files,
                out=kept,
                layers=specs,
                **network,
                dataset=chosen["dataset"],
                codes=plan.codes,
                replace=replace,
                fleeting=out is None,
            )
        codes = {spec: space.codes(spec) for spec in specs}
        record = run(codes, space.manifest(), *how, reference=known)
        write(record, space.root / "advise")
        passed_by = left_out(folder, space.root / "dataset")
    why = reason_in(record)
    if json:
        print_json({**record, "left_out": passed_by})
    elif why:
        say(f"no advice: {why}")
    else:
        rows = [
            (
                row["spec"],
                f"{100 * row['accuracy']:.1f}",
                f"{100 * row['se']:.1f}",
                f"{100 * row['knn']:.1f}",
                f"{row['logme']:.3f}",
                f"{row['h_score']:.2f}",
            )
            for row in record["layers"]
        ]
        says = record["says"]
        say(f"{says['do']} {says['otherwise']}\n")
        say("\n".join(says[key] for key in ("worth", "size", "likeness", "distance", "layer", "growth")) + "\n")
        say(table(("codes", f"{record['measure']} %", "se", "k-NN %", "LogME", "H-score"), rows))
    if why:
        raise typer.Exit(ExitCode.UNANSWERED)


@dataclass(frozen=True)
class Plan:
    """Codes that were not made yet: `codes` are the keys of that params section to change, `settings` as of `Codes`."""

    specs: list[str]
    codes: dict[str, Any]
    settings: dict[str, dict[str, Any]]


def plan_of(arch: str | None, weights: str, layers: list[str], codes: dict[str, Any]) -> Plan:
    """The codes of `layers`, of all upper ones if there are none. Raises UserError before an image is read."""
    from pipeline.advice.layers import upper_specs
    from pipeline.base.cache import cache_root
    from pipeline.codes.plan import check
    from pipeline.codes.weights_header import WeightsHeader
    from pipeline.config import CodesParams, LayerSpec
    from pipeline.workspace import canonical_weights, network, preset

    named = [LayerSpec.parse(layer, pooling="avg").name for layer in layers]
    source, view = network(arch, weights)
    params = preset(CodesParams, **(view | codes))
    header = WeightsHeader.of(canonical_weights(source, cache_root()))
    specs = named or upper_specs(header, params)
    settings = check(header, params.model_copy(update={"layers": specs}))
    return Plan(specs, codes, {spec: one.as_json() for spec, one in settings.items()})


def _reference(file: Path | None, settings: dict[str, dict[str, Any]]) -> Reference | None:
    """The reference to measure by, None if there is none. Raises UserError if `file` is none, or not of such codes."""
    from pipeline.advice import reference as references
    from pipeline.base.cache import cache_root

    kept = references.default_path(next(iter(settings.values())), cache_root())
    found = file or (kept if kept.is_file() else None)
    if found is None:
        return None
    known = references.read(found)
    references.require_same(known, settings)
    return known
