"""Adam with its state in named tensors, which a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_BETAS, _EPS = (0.9, 0.999), 1e-8


class Adam:
    """Kingma and Ba 2015, algorithm 1, with decoupled weight decay (Loshchilov and Hutter 2019).

    `parameters` are changed in place. Unlike torch's own it starts no compiler, and its state is plain to save.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, decay: float = 0.0) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._first = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
        self._second = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
        self._steps = torch.zeros((), dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, to be saved and to be copied into."""
        first = {f"adam.first.{name}": t for name, t in self._first.items()}
        second = {f"adam.second.{name}": t for name, t in self._second.items()}
        return first | second | {"adam.steps": self._steps}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """One update; `gradients` in the order of the parameters."""
        self._steps += 1
        steps = int(self._steps)
        for (name, parameter), gradient in zip(self._parameters.items(), gradients, strict=True):
            first, second = self._first[name], self._second[name]
            first.lerp_(gradient, 1 - _BETAS[0])
            second.lerp_(gradient.square(), 1 - _BETAS[1])
            size = (second / (1 - _BETAS[1] ** steps)).sqrt_().add_(_EPS)
            parameter.mul_(1 - rate * self._decay)
            parameter.addcdiv_(first, size, value=-rate / (1 - _BETAS[0] ** steps))
