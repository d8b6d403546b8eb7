"""dvc.yaml as text: what `stages` says, in YAML for people."""

from __future__ import annotations

import difflib
import hashlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.base.failing import reading
from pipeline.dag.stages import CODE, METRICS, PLAIN_NAMES, PLOTS, PRESET, STAGES, Stage

_WIDTH = 120
_ABOUT = (
    "`ls stages` is the DAG. Made by `cnncodes dvc write` from pipeline/dag/stages.py: change that. A stage's code is "
    "all that its script imports; out/code.json has a digest of it, which is one of the stage's params. "
    f"NAME/.. is this folder for a plain name. Any other leads to one without {PLAIN_NAMES}, which says what that is "
    "for."
)
_MARK = re.compile(r"# sha256 of what stands above: [0-9a-f]{64}\n\Z")
_PLAIN = re.compile(r"[\w./][\w./ -]*")


def text() -> str:
    """All of dvc.yaml. It ends with its own sha256, which tells whether someone changed it by hand."""
    return _marked("".join(f"{line}\n" for line in _lines()))


def write(path: Path, *, replace: bool = False) -> None:
    """Writes dvc.yaml. Raises UserError if what is there was not written by this, unless `replace`."""
    if not replace and path.exists() and not _is_ours(_there(path)):
        raise UserError(
            f"{path} was not made by `cnncodes dvc write`, or was changed since",
            allowed="--replace, which loses what is there",
            see="`cnncodes dvc write --check`, which shows what differs",
        )
    disk.write_text(path, text())


def differences(path: Path) -> str:
    """How a file differs from what `write` makes, as a unified diff; "" if it doesn't. A file may be missing."""
    there = _there(path) if path.exists() else ""
    lines = (there.splitlines(keepends=True), text().splitlines(keepends=True))
    return "".join(difflib.unified_diff(*lines, str(path), "`cnncodes dvc write`"))


def _there(path: Path) -> str:
    with reading(path) as file:
        return file.read().decode("utf-8", "replace")


def _marked(body: str) -> str:
    return f"{body}# sha256 of what stands above: {hashlib.sha256(body.encode()).hexdigest()}\n"


def _is_ours(there: str) -> bool:
    """Whether this or another version of `write` made all of a text."""
    mark = _MARK.search(there)
    return mark is not None and _marked(there[: mark.start()]) == there


def _lines() -> Iterator[str]:
    yield from _comment(_ABOUT, "")
    yield ""
    yield "stages:"
    for stage in STAGES:
        yield from _stage(stage)
        yield ""
    yield f"metrics: {_list(METRICS)}"
    yield ""
    yield "plots:"
    for plot in PLOTS:
        drawn = {"template": plot.template, "x": plot.x}
        yield f"  - {plot.title}: {{{_pairs(drawn)}, y: {{{_pairs({plot.file: plot.y})}}}}}"
    yield ""


def _stage(stage: Stage) -> Iterator[str]:
    yield f"  {stage.name}:"
    yield from _comment(stage.about, "    ")
    if stage.matrix:
        yield f"    matrix: {{{_pairs({key: f'${{{listed}}}' for key, listed in stage.matrix.items()})}}}"
    if stage.item:
        yield f"    wdir: {_scalar(f'{stage.item}/..')}"
        yield f"    vars: {_list([PLAIN_NAMES])}"
    yield f"    cmd: python -m stages.{stage.name}"
    coded = [f"{CODE}: [{stage.name}]"] if stage.coded else []
    yield from _wrapped("deps", map(_scalar, stage.deps))
    # A group holds what differs from the preset: under another one its values are others, though it is the same.
    preset = [PRESET] if stage.params else []
    yield from _wrapped("params", [*coded, *preset, *map(_scalar, stage.params)])
    if stage.persist:
        yield "    outs:"
        yield from (f"      - {_scalar(out)}: {{persist: true}}" for out in stage.outs)
    else:
        yield from _wrapped("outs", map(_scalar, stage.outs))
    if stage.plots:
        yield "    plots:"
        yield from (f"      - {_scalar(path)}: {{{_pairs(drawn)}}}" for path, drawn in stage.plots.items())


def _wrapped(key: str, items: Iterable[str]) -> Iterator[str]:
    """A list in flow style: on one line if it fits, else on as many as it needs."""
    all_items = list(items)
    if not all_items:
        return
    line = f"    {key}: [{', '.join(all_items)}]"
    if len(line) <= _WIDTH:
        yield line
        return
    yield f"    {key}: ["
    line = "     "
    for item in all_items:
        if len(line) + len(item) + 2 > _WIDTH:
            yield line
            line = "     "
        line += f" {item},"
    yield line
    yield "    ]"


def _comment(words: str, indent: str) -> Iterator[str]:
    start = f"{indent}# "
    yield from textwrap.wrap(words, _WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False)


def _list(items: Iterable[str]) -> str:
    return f"[{', '.join(map(_scalar, items))}]"


def _pairs(pairs: Mapping[str, str]) -> str:
    return ", ".join(f"{_scalar(key)}: {_scalar(value)}" for key, value in pairs.items())


def _scalar(value: str) -> str:
    """A text that is one in flow style too. `y` and `n` are, in the YAML 1.2 that DVC reads."""
    return value if _PLAIN.fullmatch(value) else f'"{value}"'
