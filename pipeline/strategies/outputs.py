"""The files of a strategy: predictions, curves, and the figures that the page compares."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import csv_files, disk
from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.strategies.groups import Group

PLAIN_TEXT = ("inference.txt", "probabilities.txt")
CURVE_COLUMNS = ("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
RATE = "rate:"
AVERAGED = (
    "accuracy",
    "mean_class_recall",
    "top5",
    "macro_f1",
    "log_loss",
    "fit_s",
    "predict_s",
    "epochs",
    "train_s",
    "peak_memory_bytes",
)


def write_curves(path: Path, curves: Sequence[Sequence[dict[str, Any]]]) -> None:
    """curves.csv: one line an epoch of each repeat; the rates' columns are RATE and the group's name."""
    groups = list(dict.fromkeys(name for curve in curves for row in curve for name in row["rates"]))
    header = ["repeat", *CURVE_COLUMNS, *(f"{RATE}{name}" for name in groups)]
    rows = [
        [repeat, *(_cell(row[c]) for c in CURVE_COLUMNS), *(_cell(row["rates"].get(g)) for g in groups)]
        for repeat, curve in enumerate(curves)
        for row in curve
    ]
    disk.write_text(path, csv_files.text([header, *rows]))


def read_curves(path: Path) -> list[list[dict[str, Any]]]:
    """What `write_curves` wrote, by repeat: CURVE_COLUMNS and `rates` (group -> rate); None where there was no value.

    Raises UserError if the file is missing or is none of curves.
    """
    try:
        rows = csv_files.records(path)
        found: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            values: dict[str, Any] = {c: float(row[c]) if row[c] else None for c in CURVE_COLUMNS}
            values |= {"epoch": int(row["epoch"]), "step": int(row["step"])}
            values["rates"] = {c.removeprefix(RATE): float(v) for c, v in row.items() if c.startswith(RATE) and v}
            found.setdefault(int(row["repeat"]), []).append(values)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", see="`dvc repro finetune`") from None
    except (KeyError, ValueError) as e:
        raise UserError(f"{path} is not a file of curves ({e})") from None
    return [found[r] for r in sorted(found)]


def write_predictions(
    path: Path,
    classes: Sequence[str],
    repeats: Iterable[tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.float32]]],
) -> None:
    """predictions.csv: repeat, id, a column of probabilities a class (`p:` and its name), predicted, true.

    `repeats`: (ids, true class numbers, probabilities (n, k)) of each one's test split.
    """
    rows: list[Sequence[object]] = [["repeat", "id", *(f"p:{c}" for c in classes), "predicted", "true"]]
    for repeat, (ids, true, shown) in enumerate(repeats):
        answers = shown.argmax(axis=1)
        for name, row, answer, own in zip(ids, shown, answers, true, strict=True):
            rows.append([repeat, name, *(f"{p:.6g}" for p in row), classes[answer], classes[own]])
    disk.write_text(path, csv_files.text(rows))


def read_correct(path: Path, repeat: int) -> dict[str, bool]:
    """Image id -> whether its class was named, of one repeat of what `write_predictions` wrote.

    Raises UserError if the file is missing, is none of predictions or lacks the repeat.
    """
    try:
        rows = [row for row in csv_files.records(path) if int(row["repeat"]) == repeat]
        found = {row["id"]: row["predicted"] == row["true"] for row in rows}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", see="`dvc repro finetune`") from None
    except (KeyError, ValueError) as e:
        raise UserError(f"{path} is not a file of predictions ({e})") from None
    if not found:
        raise UserError(f"{path} has no predictions of repeat {repeat}", see="`dvc repro finetune`")
    return found


def write_plain_text(folder: Path, manifest: Manifest, rows: NDArray[np.int64], shown: NDArray[np.float32]) -> None:
    """PLAIN_TEXT of a repeat's test images: `rows` of the manifest by id, `shown` their probabilities (n, classes).

    probabilities.txt: `0.103422 0.896578`, a line an image by id, in the order of the manifest's classes.
    inference.txt, as scripts for neon write it: `inference, target`, then `[0.103422 0.896578], 1`, a line an image in
    the order of the test file where there is one. Classes stand in the order of the source's numbers, 0 for one that
    no image has, so that the number behind the brackets is the place in them, from 0, of the true class.
    """
    disk.write_text(folder / "probabilities.txt", "".join(_decimals(row) + "\n" for row in shown))
    numbers = manifest.class_numbers
    whole = np.zeros((len(shown), int(numbers.max(initial=-1)) + 1), dtype=shown.dtype)
    whole[:, numbers] = shown
    order = np.searchsorted(rows, manifest.as_stored(rows))
    lines = (f"[{_decimals(whole[i])}], {numbers[manifest.targets[rows[i]]]}\n" for i in order)
    disk.write_text(folder / "inference.txt", "inference, target\n" + "".join(lines))


def clear_plain_text(folder: Path) -> None:
    for name in PLAIN_TEXT:
        (folder / name).unlink(missing_ok=True)


def _decimals(values: NDArray[np.float32]) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def over_repeats(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Means and standard deviations (n - 1; 0 of a single repeat) of AVERAGED; None where a repeat has no value."""
    found: dict[str, dict[str, float | None]] = {"mean": {}, "std": {}}
    for name in AVERAGED:
        values = [r[name] for r in records]
        whole = None not in values
        found["mean"][name] = float(np.mean(values)) if whole else None
        spread = float(np.std(values, ddof=1)) if whole and len(values) > 1 else 0.0
        found["std"][name] = spread if whole else None
    return found


def trained_text(groups: Sequence[Group], order: Sequence[str], epochs: int) -> str:
    """What the groups of groups.json train in that many epochs, in words: runs of layers with their multiple of the
    rate, `FIRST to LAST at 0.1, classifier at 1`. `order`: the model's layers, so that a run holds all between its
    ends.
    """
    how = {layer: (g.multiple, g.from_epoch) if g.trained(epochs - 1) else None for g in groups for layer in g.layers}
    parts = []
    for trained, found in itertools.groupby(order, key=lambda layer: how[layer]):
        run = list(found)
        if trained is not None:
            multiple, from_epoch = trained
            names = "everything" if len(run) == len(order) else run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}"
            parts.append(f"{names} at {multiple:g}" + (f" from epoch {from_epoch + 1}" if from_epoch else ""))
    return ", ".join(parts) or "nothing"


def never_trained(groups: Sequence[Group], epochs: int) -> list[str]:
    """Layers that the groups of groups.json leave as they came in that many epochs."""
    return list(dict.fromkeys(layer for g in groups if not g.trained(epochs - 1) for layer in g.layers))


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
