"""How a deep belief network learned its bits: free energy, reconstruction, bit means and the loss from rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report import lines

# A drawn line: (what it is, phase that has it; "rbm": each of the machines, column of training.csv).
Line = tuple[str, str, str]


# Of training.csv, for the file beside the page.
COLUMNS = (
    "phase",
    "epoch",
    "free_energy_gap",
    "reconstruction",
    "reconstruction_held_out",
    "rounded_held_out",
    "bit_mean_min",
    "bit_mean_max",
    "bits_balanced",
    "map_unrounded",
    "map_rounded",
)


@dataclass(frozen=True)
class Plot:
    """`caption` says how to read it; `share`: values from 0 to 1."""

    title: str
    lines: tuple[Line, ...]
    caption: str
    share: bool = False


PLOTS = (
    Plot(
        "Free-energy gap",
        (("machine", "rbm", "free_energy_gap"),),
        "Mean free energy of held-out images less that of as many training images, by epoch of each machine; one that "
        "keeps growing is overfitting.",
    ),
    Plot(
        "Reconstruction",
        (
            ("training, noised", "finetune", "reconstruction"),
            ("held out", "finetune", "reconstruction_held_out"),
            ("held out, from bits", "finetune", "rounded_held_out"),
        ),
        "Squared error a value, by epoch of the fine-tuning; the epoch with the lowest error from bits is kept.",
    ),
    Plot(
        "Bit means",
        (("lowest", "finetune", "bit_mean_min"), ("highest", "finetune", "bit_mean_max")),
        "The share of held-out images that set the rarest and the most frequent bit.",
        share=True,
    ),
    Plot(
        "Rounding",
        (("before rounding", "finetune", "map_unrounded"), ("bits", "finetune", "map_rounded")),
        "mAP among the validation images by squared Euclidean distance of the unrounded code, and by Hamming distance.",
        share=True,
    ),
)


def draw(rows: Sequence[Mapping[str, str]]) -> list[lines.Drawn]:
    """The plots that have figures."""
    drawn = []
    for plot in PLOTS:
        series = _series(plot, rows)
        if series:
            axis = lines.Axis(plot.title.lower(), plot.share)
            drawn.append(lines.draw(plot.title, series, axis, plot.caption))
    return drawn


def _series(plot: Plot, rows: Sequence[Mapping[str, str]]) -> dict[str, list[tuple[float, float]]]:
    """Name of a line -> (epoch, value) points."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, phase, column in plot.lines:
        for row in rows:
            if row["phase"].startswith(phase) and row.get(column):
                line = f"{name} {int(row['phase'].removeprefix('rbm')) + 1}" if phase == "rbm" else name
                found.setdefault(line, []).append((float(row["epoch"]), float(row[column])))
    return found
