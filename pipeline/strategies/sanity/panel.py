"""What to draw of a step: the page and the command line draw the same. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.strategies.sanity.step import Step

Point = tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """`by`: a column whose values each make a line. `level`: words of the mark on `y`, a line across."""

    x: str
    y: Mapping[str, str]  # column -> the line's name
    title: str
    log: bool = False
    share: bool = False
    by: str = ""
    level: str = ""


# By the step's name; a grid is drawn the same whether coarse or finer.
_GRID = Kind("rate", {"val_accuracy": "validation"}, "validation accuracy", log=True, share=True, by="weight_decay")
KINDS: dict[str, Kind] = {
    "initial loss": Kind("batch", {"loss": "loss"}, "loss before training", level="chance"),
    "overfit a handful of batches": Kind(
        "pass", {"accuracy": "accuracy"}, "accuracy on the handful", share=True, level="all"
    ),
    "learning rate": Kind("rate", {"loss": "loss"}, "training loss, smoothed", log=True),
    "coarse grid": _GRID,
    "finer grid": _GRID,
    "curve": Kind("epoch", {"train_loss": "training", "val_loss": "validation"}, "loss", level="chance"),
}


@dataclass(frozen=True)
class Panel:
    """`series`: name -> points, x rising. `level`: a value of y and its name; `spot`: a point and what it is."""

    x_title: str
    y_title: str
    log: bool
    share: bool
    series: Mapping[str, Sequence[Point]]
    level: tuple[float, str] | None
    spot: tuple[Point, str] | None


def panel(step: Step) -> Panel | None:
    """None for a step without values to draw."""
    kind = KINDS[step.name]
    series = _series(kind, step)
    if not series:
        return None
    level = next(((value, kind.level) for column, value in step.marks.items() if column in kind.y), None)
    spot = None
    if kind.x in step.marks:
        points = [p for line in series.values() for p in line if p[0] == step.marks[kind.x]]
        # Of several lines through that x, the one that made it the best.
        spot = (max(points, key=lambda p: p[1]), f"{step.marks[kind.x]:.2g}") if points else None
    return Panel(kind.x, kind.title, kind.log, kind.share, series, level, spot)


def _series(kind: Kind, step: Step) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    groups = step.curve.get(kind.by, [])
    for column, name in kind.y.items():
        for i, (x, y) in enumerate(zip(step.curve.get(kind.x, []), step.curve.get(column, []), strict=True)):
            if x is not None and y is not None:
                found.setdefault(f"decay {groups[i]:g}" if kind.by else name, []).append((x, y))
    return {name: sorted(points) for name, points in found.items()}
