"""One strategy over every repeat: trained on train, its best epoch chosen on val, reported on test."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import schema
from pipeline.codes.settings import resolve_device, resolve_precision
from pipeline.data.manifest import Manifest
from pipeline.errors import UserError
from pipeline.finetune import augment, batches, checkpoints, features, groups, images, optimisers, outputs, saved
from pipeline.finetune.gains import reading
from pipeline.finetune.images import CachedView, Images
from pipeline.finetune.losses import LOSSES
from pipeline.finetune.params import FinetuneParams, StrategyParams
from pipeline.finetune.predict import probabilities
from pipeline.finetune.schedules import Schedule, scaled_rate
from pipeline.finetune.seeds import seed_of
from pipeline.finetune.sets import sets_of
from pipeline.finetune.strategies import Ready, Task, prepare
from pipeline.finetune.train import Fitted, Limits, fit, peak_memory_bytes
from pipeline.finetune.training import Recipe, Training
from pipeline.heads.run import majority
from pipeline.heads.sets import Sets
from pipeline.metrics import classify
from pipeline.nets.weights import Weights

log = logging.getLogger(__name__)

OUTS = ("predictions.csv", "curves.csv", "groups.json", saved.MODEL, saved.HEAD, "inference.txt")


@dataclass(frozen=True)
class Place:
    """What all repeats of a strategy share. `device` and `precision` are resolved."""

    name: str
    strategy: StrategyParams
    params: FinetuneParams
    weights: Weights
    manifest: Manifest
    images: Images
    cache: Path
    device: str
    precision: str


@dataclass
class Trained:
    """A repeat's model with the weights of its best epoch, and how it came to be."""

    ready: Ready
    table: list[groups.Group]
    fitted: Fitted | None
    rows: batches.Rows


def run_strategy(
    name: str, manifest: Manifest, weights: Weights, params: FinetuneParams, out: str | Path, *, cache: Path
) -> dict[str, Any]:
    """Writes metrics.json and OUTS (`inference.txt` where asked) under `out`; returns what metrics.json holds.

    Killed at any instant, the next run goes on from the last whole epoch to the same result. Without labels the files
    say that the strategy was skipped. Raises UserError if the strategy, the weights or the data don't fit.
    """
    out = Path(out)
    if name not in params.strategies:
        raise UserError(f"unknown strategy {name!r}", allowed=params.strategies, see="finetune.strategies")
    if not manifest.classes:
        return _write_skipped(out, name, "no labels")
    place = _place(name, manifest, weights, params, cache)
    repeats = range(min(params.repeats, manifest.repeats))
    sets = [sets_of(manifest, place.images, r, max_train=params.max_train, seed=params.seed) for r in repeats]
    records, shown, curves, written = [], [], [], False
    for repeat in repeats:
        trained = _train(place, sets, repeat)
        record, probs = _test(place, trained, sets[repeat])
        records.append({"repeat": repeat} | record)
        shown.append((manifest.ids[sets[repeat].test], sets[repeat].y_test, probs))
        curves.append(trained.fitted.curve if trained.fitted else [])
        if not written:
            _write_model(place, trained, out)
            written = True
        log.info("%s, repeat %d: accuracy %.3f. %s", name, repeat, record["accuracy"], record["reading"])
    outputs.write_predictions(out / "predictions.csv", manifest.classes, shown)
    outputs.write_curves(out / "curves.csv", curves)
    if params.inference_txt:
        outputs.write_inference_txt(out / "inference.txt", shown[0][2])
    result = {
        "strategy": name,
        "kind": place.strategy.kind,
        "classes": len(manifest.classes),
        "trained": outputs.trained_text(trained.table),
        "trained_values": sum(g.values for g in trained.table if g.multiple),
        "values": sum(p.numel() for p in trained.ready.model.parameters()),
        "renewed": trained.ready.renewed,
        "left_out": sets[0].left_out,
        "device": place.device,
        "precision": place.precision,
        "repeats": records,
        **outputs.over_repeats(records),
        "majority": majority(sets, len(manifest.classes)),
    }
    schema.write_json(out / "metrics.json", result)
    _forget_checkpoints(place, repeats)
    return result


def _place(name: str, manifest: Manifest, weights: Weights, params: FinetuneParams, cache: Path) -> Place:
    device = resolve_device(params.device)
    asked = "fp32" if params.precision == "auto" and device == "mps" else params.precision
    precision = resolve_precision(asked, device)
    view = CachedView(params.view, params.scale, _triple(params.background))
    return Place(
        name=name,
        strategy=params.strategies[name],
        params=params,
        weights=weights,
        manifest=manifest,
        images=images.cached(manifest, view, cache),
        cache=cache,
        device=device,
        # float16 would need its gradients scaled; a GPU without bf16 trains in float32.
        precision="bf16" if precision == "bf16" else "fp32",
    )


def _train(place: Place, sets: Sequence[Sets], repeat: int) -> Trained:
    p, own = place.params, sets[repeat]
    seed = seed_of(p.seed, repeat)
    ready = prepare(Task(place.strategy, p, place.weights, place.manifest.classes, seed))
    ready.model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = ready.model.canonical()
    table = groups.resolve(
        {n: tuple(t.shape) for n, t in parameters.items()} if ready.table else {},
        ready.table,
        optimiser=p.optimiser,
        decay_biases=p.decay_biases,
    )
    on_codes = ready.fixed_body and not place.strategy.augment
    make = _code_rows(place, ready, sets) if on_codes else _pixel_rows(place, seed)
    test = make(own.test, own.y_test, False)
    if not ready.table:
        return Trained(ready, table, None, test)
    if repeat == 0:
        log.info("%s trains %s\n%s", place.name, outputs.trained_text(table), groups.describe(table))
    training = Training(ready.model, table, recipe(place, len(own.train), seed, on_codes=on_codes))
    full = p.optimiser == "lbfgs"  # its line search needs the same loss every time
    pinned = place.device == "cuda"
    fitted = fit(
        training,
        batches.loader(
            make(own.train, own.y_train, True),
            len(own.train) if full else p.batch_size,
            seed=seed,
            workers=p.workers,
            pinned=pinned,
        ),
        batches.loader(make(own.val, own.y_val, False), p.batch_size, pinned=pinned) if len(own.val) else None,
        Limits(p.epochs, p.clip, p.accumulate, p.select, p.patience, p.keep_every, place.precision, place.device),
        folder=_folder(place, repeat),
        key=_key(place, repeat),
    )
    return Trained(ready, table, fitted, test)


def recipe(place: Place, n_train: int, seed: int, *, on_codes: bool) -> Recipe:
    """How a strategy trains on `n_train` images."""
    p = place.params
    full = p.optimiser == "lbfgs"
    per_epoch = -(-batches.batches_of(n_train, n_train if full else p.batch_size) // p.accumulate)
    total = per_epoch * p.epochs
    batch = p.batch_size * p.accumulate
    mixing = augment.Settings(p.size, p.noise, p.mix_alpha)
    return Recipe(
        k=len(place.manifest.classes),
        loss=LOSSES[p.loss],
        smoothing=p.label_smoothing,
        mix=augment.batch_mix(place.strategy.augment, mixing),
        schedule=Schedule(
            p.schedule.kind,
            total,
            warmup=min(round(p.schedule.warmup * total), total - 1),
            every=p.schedule.every * per_epoch,
            factor=p.schedule.factor,
        ),
        optimiser=optimisers.Settings(
            scaled_rate(p.learning_rate, batch) if p.scale_rate_with_batch else p.learning_rate,
            p.momentum,
            p.nesterov,
        ),
        seed=seed,
        on_codes=on_codes,
        penalties_in_loss=full,
    )


def _pixel_rows(place: Place, seed: int) -> Any:
    p = place.params
    names = [n for n in place.strategy.augment if n in augment.AUGMENTS]
    transform = augment.image_transform(names, augment.Settings(p.size, p.noise, p.mix_alpha)) if names else None

    def make(rows: NDArray[np.int64], targets: NDArray[np.int64], train: bool) -> batches.PixelRows:
        # Test images are augmented too where several views of them are asked for.
        ids = [str(i) for i in place.manifest.ids[rows]]
        used = transform if train or p.test_views > 1 else None
        return batches.PixelRows(place.images, rows, ids, targets, size=p.size, transform=used, seed=seed)

    return make


def _code_rows(place: Place, ready: Ready, sets: Sequence[Sets]) -> Any:
    """Codes of all images that any repeat uses, so that they are computed once."""
    p = place.params
    every = np.unique(np.concatenate([rows for s in sets for rows in (s.train, s.val, s.test)]))
    codes = features.codes_of(
        ready.model.eval(),
        place.images,
        every,
        dim=ready.model.codes_dim,  # type: ignore[arg-type]
        made_by=f"{place.weights.sha256} {p.head}",
        precision=place.precision,
        device=place.device,
        batch_size=p.batch_size,
        cache=place.cache,
    )

    def make(rows: NDArray[np.int64], targets: NDArray[np.int64], train: bool) -> batches.CodeRows:
        return batches.CodeRows(codes, np.searchsorted(every, rows), targets)

    return make


def _test(place: Place, trained: Trained, sets: Sets) -> tuple[dict[str, Any], NDArray[np.float32]]:
    p, fitted = place.params, trained.fitted
    start = time.perf_counter()
    shown = probabilities(
        trained.ready.model.eval(),
        trained.rows,
        views=p.test_views if trained.ready.table and place.strategy.augment else 1,
        batch_size=p.batch_size,
        device=place.device,
        precision=place.precision,
    )
    predict_s = time.perf_counter() - start
    record: dict[str, Any] = {
        "n_train": len(sets.train),
        "n_val": len(sets.val),
        "n_test": len(sets.test),
        "chosen": {"epoch": fitted.best_epoch} if fitted else {},
    }
    # The softmax of a hinge loss's scores is a distribution, but not of how sure the model is.
    record |= classify.measure(sets.y_test, shown, probabilities=p.loss == "cross_entropy" or fitted is None)
    train_s = fitted.train_s if fitted else 0.0
    record |= {
        "fit_s": train_s,
        "predict_s": predict_s,
        "epochs": len(fitted.curve) if fitted else 0,
        "train_s": train_s,
        "peak_memory_bytes": fitted.peak_memory_bytes if fitted else peak_memory_bytes(place.device),
        "reading": reading(fitted.curve) if fitted else "Nothing was trained.",
    }
    return record, shown


def _write_model(place: Place, trained: Trained, out: Path) -> None:
    schema.write_json(out / "groups.json", groups.as_json(trained.table))
    view = CachedView(place.params.view, place.params.scale, _triple(place.params.background))
    provenance = {
        "source": f"finetune:{place.name}",
        "kind": place.strategy.kind,
        "from": dict(place.weights.provenance),
        "from_sha256": place.weights.sha256,
        "epoch": trained.fitted.best_epoch if trained.fitted else 0,
    }
    saved.write(
        out,
        trained.ready.model,
        classes=place.manifest.classes,
        view=view,
        provenance=provenance,
        source=place.weights,
    )


def _key(place: Place, repeat: int) -> str:
    """Everything that changes a repeat's result: its checkpoint is good for no other."""
    params = place.params.model_dump(mode="json", exclude={"run", "strategies", "repeats", "inference_txt", "workers"})
    return schema.fingerprint(
        {
            "params": params,
            "strategy": place.strategy.model_dump(mode="json"),
            "weights": place.weights.sha256,
            "images": place.images.key,
            "ids": place.manifest.ids.tolist(),
            "labels": place.manifest.labels.tolist(),
            "split": place.manifest.splits[repeat].tolist(),
            "repeat": repeat,
            "device": place.device,
            "precision": place.precision,
        }
    )


def _folder(place: Place, repeat: int) -> Path:
    return place.cache / checkpoints.FOLDER / _key(place, repeat)[:32]


def _forget_checkpoints(place: Place, repeats: range) -> None:
    """The results are written: what was kept for a kill goes, what was asked for by `keep_every` stays."""
    for repeat in repeats:
        folder = _folder(place, repeat)
        for name in (checkpoints.BEST, checkpoints.LAST):
            (folder / name).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _write_skipped(out: Path, name: str, reason: str) -> dict[str, Any]:
    """DVC asks for every out of a stage, so the files are there and say why they are empty."""
    result = {"strategy": name, "skipped": reason}
    for file in OUTS[:-1]:
        schema.write_text(out / file, f"skipped: {reason}\n")
    schema.write_json(out / "metrics.json", result)
    return result


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue
