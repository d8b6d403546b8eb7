"""Measures of a classifier from true classes (n,) and scores (n, k), the largest score being its answer.

Of equal scores the class first in order is the answer. Classes without a test row count in no mean over classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

# A probability below this counts as this: one sure mistake costs 34.5 nats, not infinity.
CLIP = 1e-15


def predicted(scores: Floats) -> Ints:
    """(n, k) -> (n,) the class of the largest score."""
    answers: Ints = scores.argmax(axis=1).astype(np.int64)
    return answers


def confusion(true: Ints, answers: Ints, k: int) -> Ints:
    """(k, k) counts: row the true class, column the answer."""
    return np.bincount(true * k + answers, minlength=k * k).reshape(k, k).astype(np.int64)


def accuracy(counts: Ints) -> float:
    """Share of right answers, from a confusion matrix."""
    return float(np.trace(counts) / counts.sum())


def mean_class_recall(counts: Ints) -> float:
    """Mean over the classes with test rows of the share of their rows that are right (balanced accuracy)."""
    rows = counts.sum(axis=1)
    there = rows > 0
    return float((np.diag(counts)[there] / rows[there]).mean())


def class_recall(counts: Ints) -> list[float | None]:
    """For each class in order the share of its test rows that are right, None without any."""
    rows = counts.sum(axis=1)
    return [int(right) / int(n) if n else None for right, n in zip(np.diag(counts), rows, strict=True)]


def macro_f1(counts: Ints) -> float:
    """Mean F1 = 2 TP / (2 TP + FP + FN) over the classes that occur among the true ones or the answers."""
    both = counts.sum(axis=1) + counts.sum(axis=0)
    there = both > 0
    return float((2 * np.diag(counts)[there] / both[there]).mean())


def top_k_accuracy(true: Ints, scores: Floats, top: int) -> float:
    """Share of rows whose true class is among the `top` largest scores (all of them if there are fewer classes).

    Equal scores rank by class order, as `predicted` has it.
    """
    own = np.take_along_axis(scores, true[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < true[:, None]
    rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return float((rank < top).mean())


def log_loss(true: Ints, probabilities: Floats) -> float:
    """Mean of -ln p(true class) in nats, p clipped to at least CLIP."""
    own = np.take_along_axis(probabilities, true[:, None], axis=1)[:, 0].astype(np.float64)
    return float(-np.log(np.clip(own, CLIP, 1.0)).mean())


def measure(true: Ints, scores: Floats, *, probabilities: bool) -> dict[str, Any]:
    """All of them: accuracy, mean_class_recall, class_recall (a list), top5, macro_f1, and log_loss (None without
    probabilities).
    """
    counts = confusion(true, predicted(scores), scores.shape[1])
    return {
        "accuracy": accuracy(counts),
        "mean_class_recall": mean_class_recall(counts),
        "class_recall": class_recall(counts),
        "top5": top_k_accuracy(true, scores, 5),
        "macro_f1": macro_f1(counts),
        "log_loss": log_loss(true, scores) if probabilities else None,
    }
