"""Restricted Boltzmann machines with Bernoulli hidden units, trained by one step of contrastive divergence.

Hinton 2002 and 2012 ("A practical guide to training restricted Boltzmann machines").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

# Mean of a visible unit given its input, and the part of the energy of v that has no hidden units in it.
_MEAN: dict[str, Callable[[Tensor], Tensor]] = {"bernoulli": torch.sigmoid, "gaussian": lambda total: total}
_VISIBLE_ENERGY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bernoulli": lambda v, bias: -(v @ bias),
    "gaussian": lambda v, bias: 0.5 * ((v - bias) ** 2).sum(1),
}


@dataclass
class Gradient:
    """What contrastive divergence adds to the parameters, a mean over the batch, and the reconstruction's error."""

    weights: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor
    squared_error: Tensor


@dataclass
class Rbm:
    """weights (d, h), visible_bias (d,), hidden_bias (h,); visible is `bernoulli` or `gaussian` (sigma 1)."""

    visible: str
    weights: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor

    @classmethod
    def start(cls, data_mean: Tensor, hidden: int, *, visible: str, scale: float, generator: torch.Generator) -> Self:
        """Gaussian weights of standard deviation `scale`; the visible biases explain the data's mean (d,) alone."""
        device = data_mean.device
        weights = scale * torch.randn((len(data_mean), hidden), generator=generator, device=device)
        bias = torch.logit(data_mean.clamp(0.01, 0.99)) if visible == "bernoulli" else data_mean.clone()
        return cls(visible, weights, bias, torch.zeros(hidden, device=device))

    def hidden(self, v: Tensor) -> Tensor:
        """(n, d) -> (n, h): p(h = 1 | v)."""
        return torch.sigmoid(v @ self.weights + self.hidden_bias)

    def reconstruct(self, h: Tensor) -> Tensor:
        """(n, h) -> (n, d): the mean of v given h."""
        return _MEAN[self.visible](h @ self.weights.T + self.visible_bias)

    def free_energy(self, v: Tensor) -> Tensor:
        """(n, d) -> (n,): F with p(v) = exp(-F(v)) / Z, the hidden units summed out."""
        return _VISIBLE_ENERGY[self.visible](v, self.visible_bias) - softplus(v @ self.weights + self.hidden_bias).sum(
            1
        )

    def cd1(self, v: Tensor, uniform: Tensor) -> Gradient:
        """The CD-1 statistics <v h>_data - <v h>_reconstruction of a batch (n, d).

        Hidden states are drawn by `uniform` (n, h) in [0, 1); the reconstruction and the second hidden layer are
        probabilities, which lowers the variance (Hinton 2012, section 3).
        """
        first = self.hidden(v)
        again = self.reconstruct((uniform < first).to(v.dtype))
        second = self.hidden(again)
        return Gradient(
            (v.T @ first - again.T @ second) / len(v),
            (v - again).mean(0),
            (first - second).mean(0),
            ((v - again) ** 2).mean(),
        )
