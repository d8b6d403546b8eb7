"""One head on one spec's codes, over every repeat: chosen on validation, reported on test."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import hdf5_files, json_files, stopping, unfinished
from pipeline.base.errors import UserError
from pipeline.base.skipped import Skipped
from pipeline.base.unfinished import Part, SoFar
from pipeline.base.versions import VERSIONS
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams
from pipeline.data.manifest import Manifest
from pipeline.heads.base import Head
from pipeline.heads.model import Model
from pipeline.heads.registry import head_type
from pipeline.heads.scaling import Scaling
from pipeline.heads.select import choose, rows_of, score
from pipeline.heads.sets import Sets, sets_of
from pipeline.metrics import classify

log = logging.getLogger(__name__)

_NAMED = 5
AVERAGED = ("accuracy", "mean_class_recall", "top5", "macro_f1", "log_loss", "fit_s", "predict_s")


@dataclass(frozen=True)
class _Repeat:
    """What a repeat is written from; `head` and `scaling` are those of the chosen setting."""

    record: dict[str, Any]
    scores: NDArray[np.float32]
    head: Head
    scaling: Scaling


def fit_head(
    codes: Codes,
    manifest: Manifest,
    params: HeadsParams,
    head: str,
    out: str | Path,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Writes metrics.json, predictions.h5 and model.h5 (repeat 0's) under `out`; returns what metrics.json holds.

    `fit_s`: choosing and fitting, reading included; `predict_s`: scoring all test rows, reading included. Without
    labels the three files say that the head was skipped. `cache`: where a run that is stopped leaves what it found,
    and the next one takes it. Raises UserError if a repeat can't be trained or tested.
    """
    out = Path(out)
    head_type(head)
    if not manifest.classes:
        log.info("%s on %s: no labels, skipped", head, codes.spec)
        about = {"spec": codes.spec, "head": head}
        files = {"model.h5": "head", "predictions.h5": "predictions"}
        hdf5 = {name: {"version": VERSIONS[kind], **about} for name, kind in files.items()}
        return Skipped("no labels").write(out, hdf5=hdf5, **about)
    every = [sets_of(codes, manifest, r) for r in range(manifest.repeats)]
    key = {"kind": "head", "head": head, **what_decides(codes, manifest, params)} if cache is not None else {}
    with unfinished.of(cache, key) as so_far:
        return _fit(codes, manifest, params, head, out, every=every, so_far=so_far)


def require_grids(manifest: Manifest, params: HeadsParams) -> None:
    """Before anything is fitted: raises UserError if a repeat has fewer training images than every k of knn."""
    if "knn" not in params.heads or not manifest.classes:
        return
    least = min(params.k_grid)
    for repeat in range(manifest.repeats):
        train = int((manifest.targets[manifest.rows("train", repeat)] >= 0).sum())
        if train < least:
            raise UserError(
                f"knn with k of {least} and more, and {train} training images",
                allowed=f"a k from 1 to {train}",
                see="heads.fit.k_grid in params.yaml",
            )


def what_decides(codes: Codes, manifest: Manifest, params: HeadsParams) -> dict[str, Any]:
    """All that changes a head, as plain values."""
    return {
        "codes": codes.content(),
        "images": manifest.content(),
        "params": params.model_dump(exclude={"heads"}),
    }


def _fit(
    codes: Codes,
    manifest: Manifest,
    params: HeadsParams,
    head: str,
    out: Path,
    *,
    every: Sequence[Sets],
    so_far: SoFar,
) -> dict[str, Any]:
    repeats: list[_Repeat] = []

    def kept() -> str:
        if not so_far.written:
            return ""
        within = f"repeat {len(repeats)} of {len(every)} and what was found since"
        return f"{head} on {codes.spec}: {within if repeats else 'what was found'} is kept; {stopping.GOES_ON}"

    with stopping.says(kept):
        for repeat, sets in enumerate(every):
            found = _one_repeat(codes, sets, manifest.classes, params, head, so_far=so_far.part(f"repeat-{repeat}"))
            repeats.append(found)
            log.info("%s on %s, repeat %d: accuracy %.3f", head, codes.spec, repeat, found.record["accuracy"])
    records = [{"repeat": repeat, **one.record} for repeat, one in enumerate(repeats)]
    first = repeats[0]
    for note in dict.fromkeys(note for record in records for note in record["notes"]):
        log.warning("%s on %s: %s", head, codes.spec, note)
    result = {
        "spec": codes.spec,
        "head": head,
        "classes": len(manifest.classes),
        "dim": codes.dim,
        "bytes_per_code": codes.dim * codes.dtype.itemsize,
        "left_out": every[0].left_out,
        "repeats": records,
        "mean": {name: _over(records, name, np.mean) for name in AVERAGED},
        "std": {name: _over(records, name, _std) for name in AVERAGED},
        "majority": majority(every, len(manifest.classes)),
    }
    _write_predictions(
        out / "predictions.h5",
        codes,
        classes=manifest.classes,
        head=head,
        probabilities=head_type(head).probabilities,
        predictions=[(sets, one.scores) for sets, one in zip(every, repeats, strict=True)],
    )
    Model(head, first.head, first.scaling, manifest.classes, codes.spec, codes.dim, codes.settings).save(
        out / "model.h5"
    )
    json_files.write_last(out / "metrics.json", result)
    return result


def majority(every: Sequence[Sets], k: int) -> dict[str, float]:
    """Means over repeats of always answering the commonest class of train + val (of equal ones the first)."""
    found = []
    for sets in every:
        common = np.bincount(np.concatenate([sets.y_train, sets.y_val]), minlength=k).argmax()
        counts = classify.confusion(sets.y_test, np.full(len(sets.y_test), common), k)
        found.append((classify.accuracy(counts), classify.mean_class_recall(counts)))
    accuracy, recall = np.mean(found, axis=0)
    return {"accuracy": float(accuracy), "mean_class_recall": float(recall)}


def _one_repeat(
    codes: Codes, sets: Sets, classes: Sequence[str], params: HeadsParams, head: str, *, so_far: SoFar
) -> _Repeat:
    if (part := so_far.found()) is not None:
        return _as_repeat(part, head)
    k = len(classes)
    chosen = choose(codes, sets, k, head=head, params=params, so_far=so_far)
    fit_s = so_far.seconds()
    scores = score(chosen.head, rows_of(codes, sets.test, chosen.scaling, params), k, so_far.part("test"))
    predict_s = so_far.seconds() - fit_s
    record: dict[str, Any] = {
        "n_train": len(sets.train),
        "n_val": len(sets.val),
        "n_test": len(sets.test),
        "chosen": chosen.as_dict,
        "val_score": chosen.val_score,
        "notes": [*chosen.notes, *_untested(sets, classes)],
    }
    record |= classify.measure(sets.y_test, scores, probabilities=chosen.head.probabilities)
    found = _Repeat(record | {"fit_s": fit_s, "predict_s": predict_s}, scores, chosen.head, chosen.scaling)
    so_far.keep(functools.partial(_as_part, found))
    return found


def _as_part(found: _Repeat) -> Part:
    arrays = {f"head.{name}": array for name, array in found.head.arrays().items()}
    arrays |= {"shift": found.scaling.shift, "factor": found.scaling.factor, "scores": found.scores}
    return Part(arrays, {"record": found.record, "scaling": found.scaling.kind})


def _as_repeat(part: Part, head: str) -> _Repeat:
    arrays = {name.removeprefix("head."): a for name, a in part.arrays.items() if name.startswith("head.")}
    return _Repeat(
        part.values["record"],
        part.arrays["scores"],
        head_type(head).from_arrays(arrays),
        Scaling(part.values["scaling"], part.arrays["shift"], part.arrays["factor"]),
    )


def _untested(sets: Sets, classes: Sequence[str]) -> list[str]:
    """A sentence on the classes that are in no figure, if there are any."""
    lacking = np.setdiff1d(np.arange(len(classes)), sets.y_test)
    named = ", ".join(classes[c] for c in lacking[:_NAMED]) + (", ..." if len(lacking) > _NAMED else "")
    return [f"{len(lacking)} of {len(classes)} classes have no test image ({named})"] if len(lacking) else []


def _over(records: Sequence[Mapping[str, Any]], name: str, statistic: Any) -> float | None:
    values = [r[name] for r in records]
    return None if None in values else statistic(values)


def _std(values: Sequence[float]) -> float:
    """With n - 1; 0 of a single repeat, which has no spread to show."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _write_predictions(
    path: Path,
    codes: Codes,
    *,
    classes: Sequence[str],
    head: str,
    probabilities: bool,
    predictions: Sequence[tuple[Sets, NDArray[np.float32]]],
) -> None:
    with hdf5_files.new(path) as f:
        f.attrs.update(
            {
                "version": VERSIONS["predictions"],
                "spec": codes.spec,
                "head": head,
                "classes": json_files.canonical(list(classes)),
                "probabilities": probabilities,
            }
        )
        for repeat, (sets, scores) in enumerate(predictions):
            group = f.create_group(f"repeat_{repeat}")
            group["ids"] = codes.ids[sets.test].astype("S")
            group["true"] = sets.y_test
            group["scores"] = scores
