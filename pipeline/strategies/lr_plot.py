"""The curve of a sweep of learning rates, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.base.writable import require_writable
from pipeline.data import made_here

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.strategies.lr_find import Sweep

SUFFIXES = (".png", ".svg")


def check(path: Path) -> None:
    """Raises UserError if a picture can't have that name, or be written there; call it before the sweep."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"a plot can't be written as {path.name}", allowed=[f"a name in {s}" for s in SUFFIXES])
    require_writable(path, folder=False)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG or SVG that is known as ours, and tells no date."""
    if path.suffix == ".svg":
        figure.savefig(path, metadata={"Date": None, "Creator": made_here.MARK})
    else:
        figure.savefig(path, dpi=150, pil_kwargs={"exif": made_here.exif()})


def draw(sweep: Sweep, path: Path, *, title: str) -> None:
    """Smoothed loss against the rate, on a log scale, the suggested rate marked. Raises UserError on other suffixes."""
    check(path)
    import matplotlib
    from matplotlib.figure import Figure

    # Without a salt and a date of its own, the same sweep gives the same SVG.
    with matplotlib.rc_context({"svg.hashsalt": "cnncodes"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(sweep.rates, sweep.losses, color="#0b62a4")
        axes.set_xscale("log")
        axes.set(title=title, xlabel="learning rate of new layers", ylabel="training loss, smoothed")
        axes.grid(visible=True, color="#dedcd5")
        if sweep.suggested is not None:
            axes.axvline(sweep.suggested, color="#c2500a", linestyle="--")
            axes.annotate(f" {sweep.suggested:.2g}", (sweep.suggested, max(sweep.losses)), color="#c2500a")
        with disk.atomic_path(path) as tmp:
            save(figure, tmp)
