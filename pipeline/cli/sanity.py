"""`cnncodes sanity`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from pipeline.base.front import ExitCode
from pipeline.base.terminal import plain
from pipeline.cli.finetune import (
    Arch,
    BatchSize,
    Device,
    MaxTrain,
    Momentum,
    Optimiser,
    ParamsFile,
    Precision,
    Schedule,
    Size,
    WeightsOption,
    schedule_of,
    settings_of,
)
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
from pipeline.cli.output import JsonFlag, MemoryOption, given, print_json, say
from pipeline.cli.setting import changes, set_option, weights_of
from pipeline.cli.shown import LongCommand


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command(cls=LongCommand)(sanity)


def sanity(
    where: Annotated[
        Path | None, typer.Argument(help="Folder of images, or one that `cnncodes finetune` or DVC filled.")
    ] = None,
    train: TrainFiles = None,
    test: TestFiles = None,
    strategy: Annotated[
        str, typer.Option(help="The strategy to check; a params file may have others: {finetune.strategies}")
    ] = "finetune",
    epochs: Annotated[int | None, typer.Option(help="Epochs of each run in a grid. {sanity.steps.epochs}")] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="How many grids: a coarse one, then finer ones about its best. {sanity.steps.rounds}"),
    ] = None,
    arch: Arch = None,
    weights: WeightsOption = "demo",
    params: ParamsFile = None,
    size: Size = None,
    max_train: MaxTrain = None,
    batch_size: BatchSize = None,
    optimiser: Optimiser = None,
    schedule: Schedule = None,
    momentum: Momentum = None,
    device: Device = None,
    precision: Precision = None,
    leave_out: LeaveOut = None,
    max_failed_share: MaxFailedShare = None,
    follow_links: FollowLinks = None,
    memory_mb: MemoryOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the steps' curves: a .png or .svg file; none if not given.")
    ] = None,
    set_: Annotated[list[str] | None, set_option("dataset", "weights", "finetune", "sanity")] = None,
    json: JsonFlag = False,
) -> None:
    """Check, step by step, whether a strategy learns with its settings, and say what to try if it doesn't.

    The steps: the loss before training, a few batches learned by heart, a sweep of learning rates, a coarse grid of
    settings, finer grids about its best, and the curve of the best run. Exit code 1 if a step fails.
    """
    from pipeline.strategies.lr_plot import check as check_name
    from pipeline.strategies.sanity.step import verdict
    from pipeline.transfer import sanity as run

    if plot is not None:
        check_name(plot)
    settings = settings_of(size, max_train, batch_size, optimiser, momentum, device, precision)
    settings["schedule"] = schedule_of(schedule)
    data, how = dataset(leave_out, max_failed_share, follow_links), given({"epochs": epochs, "rounds": rounds})
    chosen = changes(set_, dataset=data, finetune=given(settings), sanity=how, weights={})
    steps = run(
        where,
        strategy,
        train=train or (),
        test=test or (),
        how=chosen["sanity"],
        **weights_of(chosen["weights"], arch, weights),
        dataset=chosen["dataset"],
        settings=chosen["finetune"],
        params_file=params,
        **given({"memory_mb": memory_mb}),
    )
    if plot is not None:
        from pipeline.strategies.sanity.plot import draw

        draw(steps, plot, title=f"Sanity of {strategy}")
    if json:
        about = {"verdict": verdict(steps), "steps": [dataclasses.asdict(step) for step in steps]}
        print_json({**about, "left_out": left_out(where, made_in(where))})
    else:
        for step in steps:
            say(f"{step.verdict:4}  {step.name}: {step.seen}" + (f"\n      {step.advice}" if step.advice else ""))
        if plot is not None:
            say(plain(plot))
    if verdict(steps) == "fail":
        raise typer.Exit(ExitCode.FOUND)
