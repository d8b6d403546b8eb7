"""A strategy made ready to train: its model, per-layer table, recipe and rows.

The stage, the sweep of learning rates and the sanity checks begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.base.seeds import seed_of
from pipeline.codes.settings import resolve_device, resolve_precision
from pipeline.config import MEMORY_MB, FinetuneParams, StrategyParams
from pipeline.data.manifest import Manifest
from pipeline.heads.sets import Sets
from pipeline.nets.weights import Weights
from pipeline.strategies import augment, batches, features, groups, optimisers
from pipeline.strategies.foreseen import require_known
from pipeline.strategies.images import CachedView, Images, cached
from pipeline.strategies.kept import Kept
from pipeline.strategies.losses import LOSSES
from pipeline.strategies.model import TrunkClassifier
from pipeline.strategies.schedules import Schedule, scaled_rate
from pipeline.strategies.strategies import Ready, Task, prepare
from pipeline.strategies.training import Recipe, Training

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """What all repeats of a strategy share. `device` and `precision` are resolved. `starts`: repeat -> the checkpoint
    that it goes on from, where it does not begin at the start."""

    name: str
    strategy: StrategyParams
    params: FinetuneParams
    weights: Weights
    manifest: Manifest
    images: Images
    cache: Path
    device: str
    precision: str
    starts: Mapping[int, Kept] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """One repeat's. `training`, `train`: None for a strategy that trains nothing; `val`: None without such images.

    `world`: how many devices train it, of all machines.
    """

    ready: Ready
    table: list[groups.Group]
    training: Training | None
    train: DataLoader[batches.Batch] | None
    val: DataLoader[batches.Batch] | None
    test: batches.Samples
    world: int


class MakeRows(Protocol):
    """Rows of the manifest and their class numbers -> what batches are made of."""

    def __call__(self, rows: Ints, targets: Ints, *, augmented: bool) -> batches.Samples: ...


def place_of(
    name: str,
    manifest: Manifest,
    weights: Weights,
    params: FinetuneParams,
    cache: Path,
    *,
    memory_mb: int = MEMORY_MB,
    starts: Mapping[int, Kept] | None = None,
) -> Place:
    """`memory_mb`: of images that are decoded at once; `starts`: see Place.

    Raises UserError on an unknown strategy, a device that isn't there, and if no image can be read.
    """
    require_known([name], params)
    device = resolve_device(params.device)
    precision = resolve_precision(params.precision, device)
    return Place(
        name=name,
        strategy=params.strategies[name],
        params=params,
        weights=weights,
        manifest=manifest,
        images=cached(manifest, view_of(params), cache, memory_mb=memory_mb),
        cache=cache,
        device=device,
        # float16 would need its gradients scaled; a GPU without bf16 trains in float32.
        precision="bf16" if precision == "bf16" else "fp32",
        starts=starts or {},
    )


def prepared(place: Place, sets: Sequence[Sets], repeat: int) -> Prepared:
    """Of the repeat's sets; all repeats' are given, since a frozen part's codes are computed for all at once.

    Raises UserError if the strategy doesn't fit the weights or its table the model, and if batches are too small.
    """
    p, own = place.params, sets[repeat]
    seed = seed_of(p.seed, repeat)
    ready = prepare(Task(place.strategy, p, place.weights, place.manifest.classes, seed))
    ready.model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = ready.model.canonical() if ready.table else {}
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    table = groups.resolve(shapes, ready.table, optimiser=p.optimiser, decay_biases=p.decay_biases)
    _require_norms(place, ready, table, len(own.train))
    on_codes = ready.fixed_body and (not place.strategy.augment or p.views > 0)
    make = _code_rows(place, ready, sets, seed) if on_codes else _pixel_rows(place, seed)
    # Test images are augmented where several views of each are averaged.
    test = make(own.test, own.y_test, augmented=p.test_views > 1)
    # A head on codes trains faster than processes start.
    world = 1 if on_codes else p.world
    if not ready.table:
        return Prepared(ready, table, None, None, None, test, 1)
    if world > 1 and len(own.train) < 2 * world:
        raise UserError(f"{p.shared_by} with {len(own.train)} training images", allowed="two a device")
    pinned = place.device == "cuda"
    return Prepared(
        ready,
        table,
        Training(ready.model, table, recipe(place, len(own.train), seed, on_codes=on_codes, world=world)),
        batches.loader(
            make(own.train, own.y_train, augmented=True),
            _batch_size(p, len(own.train)),
            seed=seed,
            workers=p.workers,
            pinned=pinned,
            devices=world,
        ),
        batches.loader(make(own.val, own.y_val, augmented=False), p.batch_size, pinned=pinned)
        if len(own.val)
        else None,
        test,
        world,
    )


def _require_norms(place: Place, ready: Ready, table: Sequence[groups.Group], n_train: int) -> None:
    """Raises UserError if a batch norm would be trained on single images.

    Where a map is one value torch refuses it. On larger maps it would run, and learn from a mean and deviation of each
    image's own, which are not those that the trained network is used with. (A last batch of one is left out; see
    `batches`.)
    """
    if min(_batch_size(place.params, n_train), n_train) > 1:
        return
    trained = {id(ready.model.canonical()[name]) for g in table if g.multiple > 0 for name in g.parameters}
    norms = [m for m in ready.model.modules() if isinstance(m, nn.BatchNorm2d)]
    if any(id(p) in trained for norm in norms for p in norm.parameters()):
        raise UserError(
            f"strategy {place.name} trains batch norms, and finetune.loop.batch_size {place.params.batch_size} with "
            f"{n_train} training images gives them one image at a time",
            allowed="2 or more of both, or a strategy whose table freezes the norms",
            see="docs/params.md",
        )


def _batch_size(p: FinetuneParams, n_train: int) -> int:
    """L-BFGS' line search needs the same loss every time: its batch is the whole set."""
    return n_train if p.optimiser == "lbfgs" else p.batch_size


def recipe(place: Place, n_train: int, seed: int, *, on_codes: bool, world: int) -> Recipe:
    """How a strategy trains on `n_train` images and `world` devices."""
    p = place.params
    steps = batches.steps_of(n_train, _batch_size(p, n_train), p.accumulate, world)
    total = steps.per_epoch * p.epochs
    batch = _batch_size(p, n_train) * p.accumulate
    return Recipe(
        k=len(place.manifest.classes),
        loss=LOSSES[p.loss],
        smoothing=p.label_smoothing,
        steps=steps,
        mix=augment.batch_mix(place.strategy.augment, p),
        schedule=Schedule(
            p.schedule.kind,
            total,
            warmup=min(round(p.schedule.warmup * total), total - 1),
            every=p.schedule.every * steps.per_epoch,
            factor=p.schedule.factor,
        ),
        optimiser=optimisers.Hyperparameters(
            scaled_rate(p.learning_rate, batch) if p.scale_rate_with_batch else p.learning_rate,
            p.momentum,
            p.nesterov,
        ),
        seed=seed,
        on_codes=on_codes,
        precision=place.precision,
        penalties_in_loss=p.optimiser == "lbfgs",
    )


def _pixel_rows(place: Place, seed: int) -> MakeRows:
    p = place.params
    transform = _transform(place)

    def make(rows: Ints, targets: Ints, *, augmented: bool) -> batches.PixelRows:
        ids = [str(i) for i in place.manifest.ids[rows]]
        used = transform if augmented else None
        return batches.PixelRows(place.images, rows, ids, targets, size=p.size, transform=used, seed=seed)

    return make


def _transform(place: Place) -> Callable[[Tensor], Tensor] | None:
    p = place.params
    names = [n for n in place.strategy.augment if n in augment.AUGMENTS]
    return augment.image_transform(names, p) if names else None


def _code_rows(place: Place, ready: Ready, sets: Sequence[Sets], seed: int) -> MakeRows:
    """Codes of all images that any repeat uses, so that they are computed once; views are the same in all repeats.

    Raises UserError if the strategy mixes images, which codes can't be.
    """
    p = place.params
    assert isinstance(ready.model, TrunkClassifier)
    mixes = [name for name in place.strategy.augment if name in augment.MIXES]
    if mixes:
        raise UserError(
            f"strategy {place.name} has {' and '.join(mixes)}, which mix pixels, and finetune.image.views keeps codes",
            allowed="finetune.image.views 0, with which the frozen part runs in every epoch",
        )
    transform = _transform(place)
    views = (
        None
        if transform is None
        else features.Views(p.views, (*place.strategy.augment, f"noise {p.noise:g}"), transform, p.seed)
    )
    every = np.unique(np.concatenate([rows for s in sets for rows in (s.train, s.val, s.test)]))
    codes = features.codes_of(
        ready.model.eval(),
        place.images,
        every,
        [str(i) for i in place.manifest.ids[every]],
        views=views,
        dim=ready.model.codes_dim,
        made_by=f"{place.weights.sha256} {p.head}",
        precision=place.precision,
        device=place.device,
        batch_size=p.batch_size,
        cache=place.cache,
    )

    def make(rows: Ints, targets: Ints, *, augmented: bool) -> batches.CodeRows:
        ids = [str(i) for i in place.manifest.ids[rows]]
        view = None if augmented and views is not None else 0
        return batches.CodeRows(codes, np.searchsorted(every, rows), ids, targets, view=view, seed=seed)

    return make


def run_key(place: Place, repeat: int) -> str:
    """Everything that changes a repeat's result: its checkpoint is good for no other."""
    params = place.params.model_dump(mode="json", exclude={"run", "strategies", "repeats", "inference_txt", "workers"})
    return json_files.fingerprint(
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
        | ({"went_on_from": place.starts[repeat].digest} if repeat in place.starts else {})
    )


def view_of(params: FinetuneParams) -> CachedView:
    """The view of an image that is cached."""
    red, green, blue = params.background
    return CachedView(params.view, params.scale, (red, green, blue))
