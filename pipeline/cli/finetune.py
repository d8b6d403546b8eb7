"""`cnncodes finetune | checkpoints | lr-find`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.base.counting import size
from pipeline.base.front import ExitCode
from pipeline.base.terminal import plain
from pipeline.cli.checkpoints import checkpoints
from pipeline.cli.listing import (
    FollowLinks,
    LeaveOut,
    MaxFailedShare,
    TestFiles,
    TrainFiles,
    dataset,
    left_out,
    made_in,
)
from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say, table
from pipeline.cli.setting import changes, set_option, weights_of
from pipeline.cli.shown import LongCommand

Arch = Annotated[str | None, typer.Option(help="{weights.arch} A weights file that names its architecture decides.")]
WeightsOption = Annotated[str, typer.Option(help="demo | torchvision:IMAGENET1K_V1 | random:SEED | a weights file.")]
ParamsFile = Annotated[
    Path | None,
    typer.Option(help="A params.yaml whose section finetune gives the defaults of these options; none if not given."),
]
Size = Annotated[int | None, typer.Option(help="Side of the network's input in pixels. {finetune.image.size}")]
MaxTrain = Annotated[
    int | None, typer.Option(help="The most training images to use in each split; 0: all. {finetune.loop.max_train}")
]
BatchSize = Annotated[int | None, typer.Option(help="Images in a batch. {finetune.loop.batch_size}")]
Optimiser = Annotated[str | None, typer.Option(help="{finetune.optimiser.kind}")]
Schedule = Annotated[
    str | None, typer.Option(help="How the learning rate changes during training: {finetune.optimiser.schedule.kind}")
]
Momentum = Annotated[float | None, typer.Option(help="For sgd and rmsprop. {finetune.optimiser.momentum}")]
Device = Annotated[str | None, typer.Option(help="{finetune.compute.device}")]
Precision = Annotated[str | None, typer.Option(help="{finetune.compute.precision}")]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command(cls=LongCommand)(finetune)
    app.command()(checkpoints)
    app.command("lr-find", cls=LongCommand)(lr_find)


def finetune(
    images: Annotated[
        Path | None,
        typer.Argument(help="Folder of images, its first folder level the class; or one that a run or DVC filled."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    train: TrainFiles = None,
    test: TestFiles = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="Repeat for more; a params file can name others: {finetune.strategies} {finetune.run}"),
    ] = None,
    arch: Arch = None,
    weights: Annotated[
        str | None,
        typer.Option(help="torchvision:IMAGENET1K_V1 | random:SEED | a weights file | demo. {weights.source}"),
    ] = None,
    params: ParamsFile = None,
    size: Size = None,
    epochs: Annotated[
        int | None, typer.Option(help="Times that all training images are seen. {finetune.loop.epochs}")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="For new layers. {finetune.optimiser.learning_rate}")
    ] = None,
    optimiser: Optimiser = None,
    schedule: Schedule = None,
    momentum: Momentum = None,
    repeats: Annotated[
        int | None, typer.Option(help="Splits to train on, for the spread. {finetune.loop.repeats}")
    ] = None,
    max_train: MaxTrain = None,
    batch_size: BatchSize = None,
    head: Annotated[str | None, typer.Option(help="What classifies: {finetune.model.head}")] = None,
    keep_every: Annotated[
        int | None, typer.Option(help="Epochs between checkpoints that are kept; 0: none. {finetune.loop.keep_every}")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on from a checkpoint that was kept, with its strategy, settings and weights where none are given; "
            "epochs, rate and schedule may be others. From the start if not given."
        ),
    ] = None,
    device: Device = None,
    precision: Precision = None,
    splits: Annotated[
        str | None, typer.Option(help="folders: the top folders are train, val and test. {dataset.splits}")
    ] = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    inference_txt: Annotated[
        bool | None, typer.Option(help="Also write inference.txt and probabilities.txt. {finetune.loop.inference_txt}")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop results in OUT that are of other images or weights.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Also print each strategy's per-layer table.")] = False,
    set_: Annotated[list[str] | None, set_option("dataset", "weights", "finetune", "report")] = None,
    json: JsonFlag = False,
) -> None:
    """Train transfer strategies on a folder of images and compare them, also on a page: OUT/report."""
    from pipeline.config import ReportParams
    from pipeline.transfer import FOLDER
    from pipeline.transfer import finetune as run
    from pipeline.workspace import Workspace, preset, strategies_page

    settings = settings_of(size, max_train, batch_size, optimiser, momentum, device, precision) | {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "schedule": schedule_of(schedule),
        "repeats": repeats,
        "head": head,
        "keep_every": keep_every,
        "inference_txt": inference_txt,
        "run": strategy,
    }
    data = dataset(leave_out, max_failed_share, follow_links, splits=splits)
    chosen = changes(set_, dataset=data, finetune=given(settings), weights={}, report={})
    drawn = preset(ReportParams, **chosen["report"])
    strategies = chosen["finetune"].pop("run", None)
    records = run(
        images,
        out=out,
        train=train or (),
        test=test or (),
        strategies=strategies,
        **weights_of(chosen["weights"], arch, weights),
        dataset=chosen["dataset"],
        settings=chosen["finetune"],
        params_file=params,
        replace=replace,
        resume=resume,
        **given({"memory_mb": memory_mb}),
    )
    if any("follows" in record for record in records.values()):
        # On a machine that is not the first, which has the results.
        if json:
            print_json({**records, "left_out": left_out(images, out / "dataset")})
        else:
            say("\n".join(f"{name}: trained along as {record['follows']}" for name, record in records.items()))
        return
    page = strategies_page(Workspace(out), list(records), drawn)
    groups = {name: _groups(out / FOLDER / name) for name in records} if layers else {}
    if json:
        shown = {name: record | ({"groups": groups[name]} if layers else {}) for name, record in records.items()}
        print_json({**shown, "page": str(page), "left_out": left_out(images, out / "dataset")})
        return
    say(_comparison(records))
    for name, found in groups.items():
        say(f"\n{name}\n{_layer_table(found)}")
    say(f"{page}")


def lr_find(
    where: Annotated[
        Path | None, typer.Argument(help="Folder of images, or one that `cnncodes finetune` or DVC filled.")
    ] = None,
    train: TrainFiles = None,
    test: TestFiles = None,
    strategy: Annotated[
        str, typer.Option(help="The strategy to train; a params file may have others: {finetune.strategies}")
    ] = "finetune",
    low: Annotated[float, typer.Option(help="Lowest rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Highest rate.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Rates to try, one step each.")] = 60,
    arch: Arch = None,
    weights: WeightsOption = "demo",
    params: ParamsFile = None,
    size: Size = None,
    max_train: MaxTrain = None,
    batch_size: BatchSize = None,
    optimiser: Optimiser = None,
    momentum: Momentum = None,
    device: Device = None,
    precision: Precision = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve: a .png or .svg file; none if not given.")] = None,
    set_: Annotated[list[str] | None, set_option("dataset", "weights", "finetune")] = None,
    json: JsonFlag = False,
) -> None:
    """Train a few steps at rising learning rates, and suggest the rate at which the loss has fallen half its way."""
    from pipeline.transfer import find_rate

    settings = given(settings_of(size, max_train, batch_size, optimiser, momentum, device, precision))
    data = dataset(leave_out, max_failed_share, follow_links)
    chosen = changes(set_, dataset=data, finetune=settings, weights={})
    sweep = find_rate(
        where,
        strategy,
        train=train or (),
        test=test or (),
        low=low,
        high=high,
        steps=steps,
        plot=plot,
        **weights_of(chosen["weights"], arch, weights),
        dataset=chosen["dataset"],
        settings=chosen["finetune"],
        params_file=params,
        **given({"memory_mb": memory_mb}),
    )
    if json:
        about = {"suggested": sweep.suggested, "rates": list(sweep.rates), "losses": list(sweep.losses)}
        print_json({**about, "left_out": left_out(where, made_in(where))})
    elif sweep.suggested is None:
        say(f"the loss never falls between {low:g} and {high:g}")
    else:
        tried = f"by which the loss has fallen half its way, of {len(sweep.rates)} rates"
        say(f"learning_rate: {sweep.suggested:.2g}  ({tried})")
    if plot is not None and not json:
        say(plain(plot))
    if sweep.suggested is None:
        raise typer.Exit(ExitCode.UNANSWERED)


def settings_of(
    size: int | None,
    max_train: int | None,
    batch_size: int | None,
    optimiser: str | None,
    momentum: float | None,
    device: str | None,
    precision: str | None,
) -> dict[str, Any]:
    """What all these commands can change. A side of the input brings the margin of the cached images that the preset
    has."""
    return {
        "size": size,
        "scale": None if size is None else round(size * 9 / 8),
        "max_train": max_train,
        "batch_size": batch_size,
        "optimiser": optimiser,
        "momentum": momentum,
        "device": device,
        "precision": precision,
    }


def schedule_of(kind: str | None) -> dict[str, Any] | None:
    """The rest of the schedule stays as it is."""
    return None if kind is None else {"kind": kind}


def _comparison(records: dict[str, dict[str, Any]]) -> str:
    header = ("strategy", "trained", "epochs", "accuracy", "mean class recall", "training", "peak memory")
    rows = []
    for name, record in sorted(records.items(), key=lambda item: -item[1]["mean"]["accuracy"]):
        mean, std = record["mean"], record["std"]
        spread = len(record["repeats"]) > 1
        shares = [
            f"{100 * mean[key]:.1f}" + (f" ± {100 * std[key]:.1f}" if spread else "") + " %"
            for key in ("accuracy", "mean_class_recall")
        ]
        rows.append(
            (
                name,
                record["trained"],
                f"{mean['epochs']:.3g}",
                *shares,
                f"{mean['train_s']:.3g} s",
                size(mean["peak_memory_bytes"]),
            )
        )
    return table(header, rows)


def _groups(folder: Path) -> list[dict[str, Any]]:
    from pipeline.base import json_files

    found: list[dict[str, Any]] = json_files.read(folder / "groups.json")
    return found


def _layer_table(groups: list[dict[str, Any]]) -> str:
    from pipeline.strategies.groups import describe, from_json

    return describe(from_json(groups))
