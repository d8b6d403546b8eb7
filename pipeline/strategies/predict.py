"""Class probabilities of images by a trained classifier, from one view or the average of several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.strategies.batches import CodeRows, Samples, loader
from pipeline.strategies.model import Classifier, autocast


def probabilities(
    model: Classifier, rows: Samples, *, views: int, batch_size: int, device: str, precision: str
) -> NDArray[np.float32]:
    """(n, k) softmax of the logits, the mean over `views`: the first is the centre, others are the rows' own transform.

    `model` must be in eval mode on `device`.
    """

    def one(view: int) -> NDArray[np.float32]:
        found = []
        with _view(rows, view) as batches, torch.inference_mode(), autocast(device, precision):
            for inputs, _ in loader(batches, batch_size, epoch=view):
                x = inputs.to(device)
                logits = model.top(x) if isinstance(rows, CodeRows) else model(x)
                found.append(logits.float().softmax(dim=1).cpu().numpy())
        return np.concatenate(found)

    total = one(0)
    for view in range(1, views):
        total += one(view)
    return total / np.float32(views)


@contextlib.contextmanager
def _view(rows: Samples, view: int) -> Iterator[Samples]:
    """The rows as view 0 shows them, without their transform; any other is drawn as an epoch of its own would be, or is
    the cached one of that number."""
    if isinstance(rows, CodeRows):
        given, rows.view = rows.view, view
        try:
            yield rows
        finally:
            rows.view = given
        return
    transform = rows.transform
    if view == 0:
        rows.transform = None
    try:
        yield rows
    finally:
        rows.transform = transform
