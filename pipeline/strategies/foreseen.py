"""What would end a strategy's training, found before an image is opened: the model is made, and thrown away."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.base.errors import UserError
from pipeline.base.seeds import seed_of
from pipeline.codes.settings import resolve_device
from pipeline.config import FinetuneParams
from pipeline.nets.weights import Weights
from pipeline.strategies import devices, groups
from pipeline.strategies.strategies import Task, prepare


def require_known(names: Sequence[str], params: FinetuneParams) -> None:
    """Raises UserError on a strategy that there is none of, and on devices that are not here."""
    unknown = [name for name in names if name not in params.strategies]
    if unknown:
        raise UserError(
            f"unknown strategy {', '.join(map(repr, unknown))}", allowed=params.strategies, see="finetune.strategies"
        )
    devices.require(params.devices, resolve_device(params.device), nodes=params.nodes)


def require_fit(names: Sequence[str], params: FinetuneParams, weights: Weights, classes: Sequence[str]) -> None:
    """Raises UserError if a strategy does not fit the weights, the size of the images, its table the layers, or its
    labels the `classes`, in the order of the manifest.
    """
    for name in names:
        own = params.of(name)
        ready = prepare(Task(own.strategies[name], own, weights, classes, seed_of(params.seed, 0)))
        parameters = ready.model.canonical() if ready.table else {}
        shapes = {key: tuple(tensor.shape) for key, tensor in parameters.items()}
        groups.resolve(shapes, ready.table, optimiser=own.optimiser, decay_biases=own.decay_biases)
