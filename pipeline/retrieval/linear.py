"""What a linear head can tell from the bits alone."""

from __future__ import annotations

from typing import Any

from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams, RetrievalParams
from pipeline.data.manifest import Manifest
from pipeline.heads.select import choose, rows_of, score
from pipeline.heads.sets import sets_of
from pipeline.metrics import classify
from pipeline.retrieval.sets import REPEAT


def svm_accuracy(
    codes: Codes, manifest: Manifest, params: RetrievalParams, so_far: SoFar = NOTHING
) -> dict[str, Any] | None:
    """Accuracy on the test images of a linear SVM on rows of length 1, its C chosen on val, and notes; None if no test
    image is left.

    Raises UserError if it can't be trained.
    """
    if len(manifest.classes) < 2 or not len(manifest.rows("test", REPEAT)):
        return None
    heads = HeadsParams(
        heads=["svm"],
        scaling="l2",
        c_grid=params.c_grid,
        k_grid=[1],
        class_weight="none",
        memory_mb=params.memory_mb,
        seed=params.seed,
    )
    sets, k = sets_of(codes, manifest, REPEAT), len(manifest.classes)
    chosen = choose(codes, sets, k, head="svm", params=heads, so_far=so_far)
    scores = score(chosen.head, rows_of(codes, sets.test, chosen.scaling, heads), k)
    accuracy = float((classify.predicted(scores) == sets.y_test).mean())
    return {"accuracy": accuracy, "C": chosen.value, "notes": list(chosen.notes)}
