"""The advice against the strategies: what was advised beside the best of what was not, and whether noise tells them
apart.

Strategies are trained alike, so that they can be set against each other. A head on codes may have seen larger images,
and more of them: beside a strategy it stands with what differs, and proves nothing where something does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.figures.finetuned import correct
from pipeline.figures.records.advice import Duel, Side, Standing
from pipeline.figures.records.strategies import Baseline, Finetuned
from pipeline.figures.runs import predictions
from pipeline.metrics.significance import mcnemar_exact


@dataclass(frozen=True)
class Way:
    """A strategy or a head on codes, and whether it is right, by test image of the first split."""

    side: Side
    correct: Mapping[str, bool]


def of_strategy(one: Finetuned, folder: Path) -> Way:
    """`folder` has all strategies' predictions."""
    mean, std = one.mean("accuracy"), one.std("accuracy")
    side = Side(one.name, mean, std, len(one.repeats), one.size, one.repeats[0]["n_train"])
    return Way(side, correct(folder, one))


def of_head(one: Baseline, folder: Path, *, size: int) -> Way:
    """`folder` has all heads' predictions; `size`: px of the images that its codes saw."""
    run, first = one.run, one.repeats[0]
    shown = predictions(folder, run, run.repeats[0]["repeat"])
    # A head was fitted again on train and val before it met the test images.
    images = first["n_train"] + first["n_val"]
    side = Side(one.name, one.mean("accuracy"), one.std("accuracy"), len(one.repeats), size, images)
    return Way(side, dict(zip(shown.ids.tolist(), shown.correct.tolist(), strict=True)))


def duel(advised: Way, other: Way) -> Duel:
    """On the test images that both named a class of."""
    common = sorted(advised.correct.keys() & other.correct.keys())
    ours, theirs = (np.array([one.correct[i] for i in common], dtype=np.bool_) for one in (advised, other))
    return Duel(advised.side, other.side, (float(ours.mean()), float(theirs.mean())), mcnemar_exact(ours, theirs))


def standing(record: Mapping[str, Any], tuned: Sequence[Finetuned], folder: Path, head: Way | None) -> Standing | None:
    """None without strategies, whose predictions are in `folder`. `head`: the one on the advised codes."""
    if not tuned:
        return None
    own = [one for one in tuned if _is_advised(one, record)]
    others = [one for one in tuned if one not in own]
    best_own, best_other = (_best(group, folder) for group in (own, others))
    alike = duel(best_own, best_other) if best_own and best_other else None
    codes = None
    if head is not None:
        if record["transfer"] == "head":
            codes = duel(head, best_other) if best_other else None
        else:
            codes = duel(best_own, head) if best_own else None
    kinds = tuple(_in_words(kind, record["from_layer"]) for kind in record["kinds"])
    return Standing(alike, codes, kinds, bool(own))


def _is_advised(one: Finetuned, record: Mapping[str, Any]) -> bool:
    """Whether it is of an advised kind; where layers are to be tuned, all of them or from the one that was named."""
    if one.kind not in record["kinds"]:
        return False
    return one.kind != "finetune" or one.settings["below"] in ("", record["from_layer"])


def _in_words(kind: str, from_layer: str | None) -> str:
    if kind != "finetune":
        return kind
    return f"finetune from {from_layer} or of all layers" if from_layer else "finetune of all layers"


def _best(group: Sequence[Finetuned], folder: Path) -> Way | None:
    """By its mean accuracy; of equal ones the first."""
    return of_strategy(max(group, key=lambda one: one.mean("accuracy")), folder) if group else None
