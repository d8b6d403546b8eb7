"""`cnncodes weights convert | inspect | diff`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.counting import size
from pipeline.base.errors import UserError
from pipeline.base.front import ExitCode
from pipeline.base.terminal import plain
from pipeline.cli.output import JsonFlag, print_json, say, table
from pipeline.cli.shown import Command

if TYPE_CHECKING:
    from pipeline.nets.weights.match import Entry
    from pipeline.nets.weights.record import Preprocessing

weights = typer.Typer(
    help="Look into weights files, compare them, and convert them to the format that extraction reads.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
FileArgument = Annotated[Path, typer.Argument(help="A weights file of any known format.", show_default=False)]
ArchOption = Annotated[
    str | None, typer.Option(help="{weights.arch:choices}; found from the shapes of the layers if not given.")
]
DeployOption = Annotated[Path | None, typer.Option(help="The deploy.prototxt that belongs to a .caffemodel.")]


def register(app: typer.Typer) -> None:
    """Adds the group of commands; another module adds its own to `weights`."""
    app.add_typer(weights, name="weights")


@weights.command(cls=Command)
def convert(
    file: FileArgument,
    out: Annotated[Path | None, typer.Option(help="FILE with the suffix .safetensors if not given.")] = None,
    arch: ArchOption = None,
    deploy: DeployOption = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            help="torchvision | caffe | caffe-rgb; if not given, as the file says, or else as is usual for its format."
        ),
    ] = None,
    renew: Annotated[
        int | None,
        typer.Option(
            min=0, help="Fill layers that don't fit with random values of this seed; they are left out if not given."
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Which of several sets of weights in FILE, such as ema_state_dict; the only one if not given."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write FILE's weights as canonical safetensors, and say what was copied, what was not, and why."""
    from dataclasses import asdict

    from pipeline.nets.weights import convert as library
    from pipeline.nets.weights import write_canonical
    from pipeline.nets.weights.describe import deepest
    from pipeline.nets.weights.record import plain_preprocessing

    target = out or file.with_suffix(".safetensors")
    if target.suffix != ".safetensors":
        raise UserError(f"--out {target} is not a .safetensors file", allowed="a name that ends in .safetensors")
    if target.exists() and not force:
        raise UserError(f"{target} exists", allowed="another --out, or --force")
    chosen = _preprocessing(preprocessing)
    done = library.convert(file, arch=arch, deploy=deploy, preprocessing=chosen, renew=renew, part=part)
    write_canonical(done.weights, target)
    last = deepest(done.weights.tensors)
    if json:
        print_json(
            {
                "out": str(target),
                "arch": done.weights.arch,
                "deepest": last,
                "sha256": done.weights.sha256,
                "preprocessing": plain_preprocessing(done.weights.preprocessing),
                "preprocessing_from": done.preprocessing_from,
                "part": done.weights.provenance.get("part"),
                "account": [asdict(entry) for entry in done.account],
            }
        )
        return
    say(_account(done.account))
    say(f"\narchitecture   {done.weights.arch}, up to {last}")
    if "part" in done.weights.provenance:
        say(plain(f"taken from     {done.weights.provenance['part']}"))
    say(f"preprocessing  {_sentence(plain_preprocessing(done.weights.preprocessing))} (from {done.preprocessing_from})")
    say(f"sha256         {done.weights.sha256}\nwritten        {target}")


@weights.command(cls=Command)
def inspect(file: FileArgument, arch: ArchOption = None, deploy: DeployOption = None, json: JsonFlag = False) -> None:
    """Show what is in FILE: its format, each layer's shape, type and range of values, values that are not finite, the
    preprocessing, and where the weights come from."""
    from pipeline.nets.weights import describe

    found = describe.inspect(file, arch=arch, deploy=deploy)
    if json:
        print_json(found)
        return
    header = ("tensor", "shape", "type", "min", "max", "mean", "std", "not finite")
    rows = [
        (
            t["name"],
            _shape(t["shape"]),
            t["dtype"],
            *(_figure(t[k]) for k in ("min", "max", "mean", "std")),
            t["non_finite"],
        )
        for t in found["tensors"]
    ]
    say(table(header, rows) + "\n")
    facts = {
        "file": f"{found['path']}, {size(found['bytes'])}, {found['format']}",
        "file's sha256": found["file_sha256"],
        "architecture": f"{found['arch']}, up to {found['deepest']} ({found['arch_known_by']})"
        if found["arch"]
        else "",
        "values": f"{found['values']:,}",
        "taken from": found["part"] or "",
        "preprocessing": f"{_sentence(found['preprocessing'])} ({found['preprocessing_known_by']})",
        "classes": f"{len(found['classes'])}: {', '.join(found['classes'][:5])} ..." if found["classes"] else "",
        "provenance": "; ".join(f"{key}: {value}" for key, value in (found["provenance"] or {}).items()),
        "sha256": found["sha256"],
    }
    for name, fact in facts.items():
        if fact:
            say(plain(f"{name:14} {fact}"))
    for name, why in found["not_used"].items():
        say(plain(f"{'not used':14} {name}: {why}"))
    for problem in found["problems"]:
        say(plain(f"{'problem':14} {problem}"))


@weights.command(cls=Command)
def diff(
    a: Annotated[Path, typer.Argument(help="A weights file of any known format.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another, of the same or another format.", show_default=False)],
    arch: ArchOption = None,
    json: JsonFlag = False,
) -> None:
    """Compare two weights files, tensor by tensor. Their formats may differ. Exit code 1 if the weights do."""
    from pipeline.nets.weights import describe

    found = describe.diff(describe.opened(a, arch=arch), describe.opened(b, arch=arch))
    if json:
        print_json(found)
    else:
        _print_diff(found)
    if not found["same"]:
        raise typer.Exit(ExitCode.FOUND)


def _print_diff(found: dict[str, Any]) -> None:
    differing = [t for t in found["tensors"] if t["status"] != "same"]
    if differing:
        rows = [
            (t["name"], t["status"], _figure(t["max_abs"]), _figure(t["relative"]), *map(_shape, t["shapes"]))
            for t in differing
        ]
        header = ("tensor", "", "largest difference", "relative", "shape in a", "shape in b")
        say(table(header, rows) + "\n")
    for what, (left, right) in found["differing"].items():
        shown = (_sentence(left), _sentence(right)) if what == "preprocessing" else (left, right)
        say(plain(f"{what}: {shown[0]} in a, {shown[1]} in b"))
    counts = Counter(t["status"] for t in found["tensors"])
    say("tensors: " + ", ".join(f"{count} {status}" for status, count in counts.items()))


def _account(account: tuple[Entry, ...]) -> str:
    return table(("layer", "", "why"), [(entry.name, entry.outcome, entry.why) for entry in account])


def _preprocessing(name: str | None) -> Preprocessing | None:
    from pipeline.nets.weights.preprocessings import PREPROCESSINGS

    if name is not None and name not in PREPROCESSINGS:
        raise UserError(f"unknown preprocessing {name!r}", allowed=PREPROCESSINGS)
    return None if name is None else PREPROCESSINGS[name]


def _sentence(preprocessing: dict[str, Any] | None) -> str:
    """The order of channels and the formula, as docs/params.md writes it."""
    if preprocessing is None:
        return "unknown"
    mean, std = (", ".join(f"{v:g}" for v in preprocessing[key]) for key in ("mean", "std"))
    return f"{preprocessing['channels'].upper()}, (x * {preprocessing['scale']:g} - ({mean})) / ({std})"


def _shape(shape: list[int] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
