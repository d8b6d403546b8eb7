"""The optimisers, and how the groups of a per-layer table share one step of several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.base.errors import UserError
from pipeline.strategies.groups import Group


@dataclass(frozen=True)
class Hyperparameters:
    """`rate` is the learning rate at multiple and schedule 1; `momentum` and `nesterov` are of SGD (and RMSprop)."""

    rate: float
    momentum: float
    nesterov: bool


# name -> (groups, settings, the device's type) -> optimiser. What is not named here is torch's own default.
OPTIMISERS: dict[str, Callable[[list[dict[str, Any]], Hyperparameters, str], Optimizer]] = {
    "sgd": lambda groups, s, device: torch.optim.SGD(
        groups, lr=s.rate, momentum=s.momentum, nesterov=s.nesterov, fused=_fused("sgd", device)
    ),
    "adam": lambda groups, s, device: torch.optim.Adam(groups, lr=s.rate, fused=_fused("adam", device)),
    "adamw": lambda groups, s, device: torch.optim.AdamW(groups, lr=s.rate, fused=_fused("adamw", device)),
    "rmsprop": lambda groups, s, device: torch.optim.RMSprop(groups, lr=s.rate, momentum=s.momentum),
    "adagrad": lambda groups, s, device: torch.optim.Adagrad(groups, lr=s.rate, fused=_fused("adagrad", device)),
    # It takes no groups: `make` gives it what is trained, and the penalties are part of its loss.
    "lbfgs": lambda groups, s, device: torch.optim.LBFGS(
        [p for g in groups for p in g["params"]], lr=s.rate, line_search_fn="strong_wolfe"
    ),
}
# Where torch can update all values in one pass over memory; on a CPU its ordinary way makes a dozen.
FUSED: Mapping[str, frozenset[str]] = {
    "sgd": frozenset({"cpu", "cuda"}),
    "adam": frozenset({"cpu", "cuda"}),
    "adamw": frozenset({"cpu", "cuda"}),
    "adagrad": frozenset({"cpu"}),
}


def _device_of(parameters: Mapping[str, nn.Parameter]) -> str:
    return next(iter(parameters.values())).device.type


def _fused(name: str, device: str) -> bool | None:
    """None: torch's own choice."""
    return True if device in FUSED[name] else None


class Together(Optimizer):
    """Several optimisers as one: their groups in a row, one step of each."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([{"params": g["params"]} for part in self.parts for g in part.param_groups], {})
        # The same dicts as the parts', so that a rate set here is theirs.
        self.param_groups = [g for part in self.parts for g in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [g for part in self.parts for g in part.param_groups]


def make(groups: Sequence[Group], parameters: Mapping[str, nn.Parameter], settings: Hyperparameters) -> Optimizer:
    """One optimiser that holds every group, frozen ones included: unfreezing and resuming find the same groups.

    Each of its param_groups has `name` and `multiple`; frozen ones have rate 0. Raises UserError on what L-BFGS, which
    has one rate and no penalties, can't do.
    """
    if any(g.optimiser == "lbfgs" for g in groups):
        return _lbfgs(groups, parameters, settings)
    device = _device_of(parameters)
    parts = []
    for name in dict.fromkeys(g.optimiser for g in groups):
        own = [
            {
                "params": [parameters[p] for p in g.parameters],
                "lr": settings.rate * g.multiple,
                "weight_decay": g.weight_decay,
                "name": g.name,
                "multiple": g.multiple,
                "from_epoch": g.from_epoch,
            }
            for g in groups
            if g.optimiser == name
        ]
        parts.append(OPTIMISERS[name](own, settings, device))
    return parts[0] if len(parts) == 1 else Together(parts)


def _lbfgs(groups: Sequence[Group], parameters: Mapping[str, nn.Parameter], settings: Hyperparameters) -> Optimizer:
    trained = [g for g in groups if g.multiple > 0]
    fits = all(g.optimiser == "lbfgs" and g.multiple == 1 and g.from_epoch == 0 and g.l1 == 0 for g in trained)
    if not trained or not fits:
        raise UserError(
            "optimiser lbfgs has one rate for all that is trained, no L1 and no unfreezing",
            allowed="a frozen strategy, whose head alone is trained, with l1: 0",
        )
    found = OPTIMISERS["lbfgs"](
        [{"params": [parameters[p] for g in trained for p in g.parameters]}], settings, _device_of(parameters)
    )
    found.param_groups[0] |= {"name": "all that is trained", "multiple": 1.0, "from_epoch": 0}
    return found


def set_rates(optimiser: Optimizer, rate: float, epoch: int = 0) -> None:
    """Every group's learning rate becomes `rate` times its multiple, 0 before the epoch from which it is trained."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiple"] if epoch >= group["from_epoch"] else 0.0


def add_l1(groups: Sequence[Group], parameters: Mapping[str, nn.Parameter]) -> None:
    """Adds l1 * sign(w) to the gradients, the subgradient of l1 * sum |w| (0 at 0)."""
    for group in groups:
        if group.l1:
            for name in group.parameters:
                grad = parameters[name].grad
                if grad is not None:
                    grad.add_(parameters[name].detach().sign(), alpha=group.l1)


def l2_penalty(groups: Sequence[Group], parameters: Mapping[str, nn.Parameter]) -> Tensor | float:
    """sum of weight_decay / 2 * |w|^2: the penalty whose gradient is SGD's weight decay, for optimisers without one."""
    terms = [
        parameters[n].square().sum() * (g.weight_decay / 2) for g in groups if g.weight_decay for n in g.parameters
    ]
    return sum(terms)
