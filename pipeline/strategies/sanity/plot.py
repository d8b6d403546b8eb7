"""The steps of the procedure as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.base import disk
from pipeline.strategies.lr_plot import check, save
from pipeline.strategies.sanity.panel import panel
from pipeline.strategies.sanity.step import Step

_COLOURS = {"pass": "#1d6b3a", "warn": "#8a5a00", "fail": "#a8201a"}
_LINES = ("#0b62a4", "#c2500a", "#5b3f8c")


def draw(steps: Sequence[Step], path: Path, *, title: str) -> None:
    """A panel a step, its verdict in its title. Raises UserError if `path` is no .png or .svg."""
    check(path)
    import matplotlib
    from matplotlib.figure import Figure

    drawn = [(step, shown) for step in steps if (shown := panel(step)) is not None]
    rows = -(-len(drawn) // 2)
    # Without a salt and a date of its own, the same steps give the same SVG.
    with matplotlib.rc_context({"svg.hashsalt": "cnncodes"}):
        figure = Figure(figsize=(10, 1 + 3 * rows), layout="constrained")
        figure.suptitle(title)
        axes = list(figure.subplots(max(rows, 1), 2, squeeze=False).flat)
        for plot, (step, shown) in zip(axes, drawn, strict=False):
            for (name, points), colour in zip(shown.series.items(), _LINES, strict=False):
                plot.plot(*zip(*points, strict=True), color=colour, label=name, marker="." if len(points) < 12 else "")
            if shown.level is not None:
                plot.axhline(shown.level[0], color="#6b6b6b", linestyle="--", label=shown.level[1])
            if shown.spot is not None:
                plot.plot(*shown.spot[0], "o", color="#c2500a", label=shown.spot[1])
            plot.set_xscale("log" if shown.log else "linear")
            plot.set(xlabel=shown.x_title, ylabel=shown.y_title)
            plot.set_title(f"{step.name}: {step.verdict}", color=_COLOURS[step.verdict])
            plot.grid(visible=True, color="#dedcd5")
            plot.legend(fontsize="small")
        for plot in axes[len(drawn) :]:
            plot.remove()
        with disk.atomic_path(path) as tmp:
            save(figure, tmp)
