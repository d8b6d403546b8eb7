"""`cnncodes advise`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.listing import FollowLinks, LeaveOut, MaxFailedShare, dataset, left_out
from pipeline.cli.output import JsonFlag, MemoryOption, print_json, say, table
from pipeline.front import ExitCode

if TYPE_CHECKING:
    from pipeline.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(advise)


def advise(
    folder: Annotated[Path, typer.Argument(help="Images whose first folder level is the class, or a folder of codes.")],
    out: Annotated[
        Path | None, typer.Option(help="Keep the codes of the images, and the advice, in this folder.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A file of `cnncodes weights reference`; the cache's if not given.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Specs with commas; all of the preset or the folder if not given.")] = "",
    arch: Annotated[
        str | None, typer.Option(help="Architecture, for images; as in `cnncodes extract` if not given.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Weights, for images; as in `cnncodes extract`.")] = "demo",
    size: Annotated[int | None, typer.Option(help="Input side in pixels, for images.")] = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    json: JsonFlag = False,
) -> None:
    """Say what to transfer, how, and whether it is worth it, from the training images alone, with the numbers."""
    from pipeline.advice import reference as references
    from pipeline.advice.run import advise as run
    from pipeline.advice.run import write
    from pipeline.cache import cache_root
    from pipeline.config import AdviseParams, HeadsParams
    from pipeline.workspace import preset

    specs = [part.strip() for part in layers.split(",")] if layers else []
    data = dataset(leave_out, max_failed_share, follow_links)
    keys = {} if size is None else {"crop": size, "scales": [size]}
    keys |= {} if memory_mb is None else {"memory_mb": memory_mb}
    with _workspace(folder, out, specs, data, arch=arch, weights=weights, codes=keys) as space:
        codes = {one.spec: one for one in (space.codes(spec) for spec in specs or space.specs())}
        kept = references.default_path(next(iter(codes.values())).settings, cache_root())
        found = reference or (kept if kept.is_file() else None)
        record = run(
            codes,
            space.manifest(),
            preset(AdviseParams),
            preset(HeadsParams),
            reference=references.read(found) if found else None,
        )
        write(record, space.root / "advise")
        passed_by = left_out(folder, space.root / "dataset")
    if json:
        print_json({**record, "left_out": passed_by})
    elif "skipped" in record:
        say(f"no advice: {record['skipped']}")
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
    if "skipped" in record:
        raise typer.Exit(ExitCode.UNANSWERED)


@contextlib.contextmanager
def _workspace(
    folder: Path,
    out: Path | None,
    specs: list[str],
    data: dict[str, Any],
    *,
    arch: str | None,
    weights: str,
    codes: dict[str, Any],
) -> Iterator[Workspace]:
    """The codes that are in `folder`, or those of the images in it; without `out` they stay in the store alone."""
    from pipeline.workspace import Workspace, extract

    if any(folder.glob("codes/*/codes.json")):
        yield Workspace.open(folder)
        return
    with contextlib.ExitStack() as stack:
        kept = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnncodes-advise-")))
        chosen: dict[str, Any] = {"layers": specs or None, "arch": arch, "weights": weights, "codes": codes}
        yield extract(folder, out=kept, dataset=data, fleeting=out is None, **chosen)
