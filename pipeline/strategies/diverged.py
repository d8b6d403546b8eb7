"""What broke when a loss or a gradient stopped being a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from pipeline.base.errors import UserError
from pipeline.strategies.groups import layer_of

if TYPE_CHECKING:
    from pipeline.strategies.batches import Batch
    from pipeline.strategies.training import Training


class DivergedError(UserError):
    """Training at these settings left the numbers; at others it may go well."""


def diverged(training: Training, batch: Batch, seed: int, *, step: int) -> DivergedError:
    """The error of a step whose gradients, which the parameters hold, are not all finite.

    Weights are still those before the step. The batch is run once more to see where a value broke on the way forward.
    Of several processes, whose gradients are the same, all say what the first one saw whose part of the batch broke.
    """
    loss, forward = _first_forward(training, batch, seed)
    if training.parts is not None:
        loss, forward = _first_process(loss, forward, training.parts.part.world)
    backward = _first_backward(training)
    where = f"the first gradient to break, going back from the loss, is that of {backward}"
    if forward is not None:
        where = f"the output of {forward} broke first on the way forward, and {where}"
    rate = training.recipe.optimiser.rate
    return DivergedError(
        f"training diverged in epoch {training.current_epoch + 1}, step {step}: loss {loss:g}; {where}; "
        "the checkpoint of the last whole epoch is kept",
        allowed=f"a learning rate below {rate:g}, a longer warm-up, or finetune.optimiser.clip above 0",
        see="`cnncodes lr-find`",
    )


def _first_forward(training: Training, batch: Batch, seed: int) -> tuple[float, str | None]:
    """(loss, name of the first layer with a value that is not finite, if any)."""
    broken: list[str] = []

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                broken.append(name)

        return module.register_forward_hook(hook)

    handles = [
        watch(name.partition(".")[2] or name, module)
        for name, module in training.model.named_modules()
        if name and not list(module.children())
    ]
    try:
        with torch.no_grad():
            loss, _ = training.loss_of(batch, seed)
    finally:
        for handle in handles:
            handle.remove()
    return float(loss), broken[0] if broken else None


def _first_process(loss: float, forward: str | None, world: int) -> tuple[float, str | None]:
    found: list[Any] = [None] * world
    distributed.all_gather_object(found, (loss, forward))
    broken = [seen for seen in found if seen[1] is not None or not math.isfinite(seen[0])]
    first: tuple[float, str | None] = (broken or found)[0]
    return first


def _first_backward(training: Training) -> str:
    """The layer nearest to the loss whose gradient is not finite; "none of them" if only their norm overflowed."""
    for name, parameter in reversed(list(training.named.items())):
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return layer_of(name)
    return "none alone: all together overflow"
