"""The strategies: each makes a model and says, layer by layer, how it is trained. `STRATEGIES` is the whole set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.base.errors import UserError
from pipeline.base.seeds import seed_of
from pipeline.config import FinetuneParams, StrategyParams, TableEntry
from pipeline.nets import backbone
from pipeline.nets.weights import Weights
from pipeline.strategies import baselines, model
from pipeline.strategies.direct import Direct
from pipeline.strategies.groups import layer_of
from pipeline.strategies.model import Classifier, TrunkClassifier


@dataclass(frozen=True)
class Task:
    """What a strategy is asked for: `classes` of the target, `seed` of this repeat's initial values."""

    strategy: StrategyParams
    params: FinetuneParams
    weights: Weights
    classes: Sequence[str]
    seed: int


@dataclass(frozen=True)
class Ready:
    """`table`: the per-layer table; [] trains nothing. `renewed`: layer -> why it was not imported.

    `fixed_body`: the body is frozen and in eval mode, so that its codes of an image are always the same.
    """

    model: Classifier
    table: list[TableEntry]
    fixed_body: bool = False
    renewed: dict[str, str] = field(default_factory=dict)


def prepare(task: Task) -> Ready:
    """The model and table of a strategy; its own `table`, if it has one, in place of the kind's.

    Raises UserError if the weights or the size of the images don't fit.
    """
    if not backbone.find(task.weights.arch).trainable:
        raise UserError(
            f"{task.weights.arch} gives codes, and can't be trained here",
            allowed=", ".join(backbone.archs()),
            see="docs/params.md",
        )
    ready = STRATEGIES[task.strategy.kind](task)
    if not task.strategy.table:
        return ready
    # A table of the user's may train what the kind would freeze.
    return Ready(ready.model, list(task.strategy.table), renewed=ready.renewed)


def _direct(task: Task) -> Ready:
    return Ready(Direct(task.weights, task.strategy.labels, task.classes, size=task.params.size), [])


def _frozen(task: Task) -> Ready:
    tuned = _new(task)
    renewed = _import_trunk(task, tuned)
    table = [_entry(task, _trunk(tuned), 0.0), _entry(task, _head(tuned), 1.0)]
    return Ready(tuned, table, fixed_body=True, renewed=renewed)


def _finetune(task: Task) -> Ready:
    tuned = _new(task)
    renewed = _import_all(task, tuned)
    below = task.strategy.below
    trunk = _trunk(tuned)
    frozen = set(backbone.find(tuned.arch).before(below)) if below else set()
    fixed = [layer for layer in [*trunk, *_head(tuned)] if layer in frozen]
    if new := [layer for layer in fixed if layer in renewed]:
        raise UserError(
            f"`below` {below} would freeze {', '.join(new)} at random values: {renewed[new[0]]}",
            allowed=f"{new[0]} or a layer before it",
        )
    table = [_entry(task, fixed, 0.0)] if fixed else []
    table += _imported_and_new(task, tuned, [layer for layer in trunk if layer not in fixed], renewed, fixed)
    return Ready(tuned, table, fixed_body=set(trunk) <= set(fixed), renewed=renewed)


def _gradual(task: Task) -> Ready:
    """New layers first; every `every` epochs the next block of convolutions from the top (Howard and Ruder 2018)."""
    tuned = _new(task)
    renewed = _import_all(task, tuned)
    table = _imported_and_new(task, tuned, [], renewed)
    for step, block in enumerate(reversed(tuned.base.blocks()), start=1):
        table.append(_entry(task, list(block), task.strategy.multiple, from_epoch=step * task.strategy.every))
    return Ready(tuned, table, renewed=renewed)


def _scratch(task: Task) -> Ready:
    return Ready(_new(task), [_entry(task, ["*"], 1.0)])


def _baseline(task: Task) -> Ready:
    p = task.params
    kind, k = task.strategy.kind, len(task.classes)
    net = baselines.Baseline(kind, k=k, widths=p.widths, dropout=p.dropout, size=p.size)
    model.initialise(net, p.init, task.seed)
    return Ready(net, [_entry(task, ["*"], 1.0)])


STRATEGIES: dict[str, Callable[[Task], Ready]] = {
    "direct": _direct,
    "frozen": _frozen,
    "finetune": _finetune,
    "gradual": _gradual,
    "scratch": _scratch,
    **dict.fromkeys(baselines.BASELINES, _baseline),
}


def _new(task: Task) -> TrunkClassifier:
    p = task.params
    tuned = TrunkClassifier(
        task.weights.arch,
        task.weights.preprocessing,
        size=p.size,
        head=p.head,
        widths=p.widths,
        dropout=p.dropout,
        k=len(task.classes),
    )
    model.initialise(tuned, p.init, seed_of(task.seed, "init"))
    return tuned


def _import_trunk(task: Task, tuned: TrunkClassifier) -> dict[str, str]:
    model.require_trunk(task.weights, tuned.last)
    trunk = {n: t for n, t in task.weights.tensors.items() if layer_of(n) in _trunk(tuned)}
    return model.import_fitting(tuned, trunk)


def _import_all(task: Task, tuned: TrunkClassifier) -> dict[str, str]:
    """The classifier is always new: its classes are the target's."""
    model.require_trunk(task.weights, tuned.last)
    logits = backbone.find(tuned.arch).logits
    return model.import_fitting(tuned, {n: t for n, t in task.weights.tensors.items() if layer_of(n) != logits})


def _imported_and_new(
    task: Task, tuned: TrunkClassifier, trunk: list[str], renewed: dict[str, str], fixed: Sequence[str] = ()
) -> list[TableEntry]:
    """Entries of some layers of the trunk and of the head but what is `fixed`, imported ones at the small multiple."""
    imported = trunk + [layer for layer in _head(tuned) if layer not in renewed and layer not in fixed]
    entries = [_entry(task, imported, task.strategy.multiple)] if imported else []
    return [*entries, _entry(task, [layer for layer in _head(tuned) if layer in renewed], 1.0)]


def _entry(task: Task, names: list[str], multiple: float, *, from_epoch: int = 0) -> TableEntry:
    p = task.params
    return TableEntry(
        layers=names, multiple=multiple, weight_decay=p.weight_decay, l1=p.l1, optimiser="", from_epoch=from_epoch
    )


def _trunk(tuned: TrunkClassifier) -> list[str]:
    """Layers with parameters, in order, norms under their own names."""
    return [layer for block in tuned.base.blocks() for layer in block]


def _head(tuned: TrunkClassifier) -> list[str]:
    trunk = set(_trunk(tuned))
    return [layer for layer in dict.fromkeys(layer_of(n) for n in tuned.canonical()) if layer not in trunk]
