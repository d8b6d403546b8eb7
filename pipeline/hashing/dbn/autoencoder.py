"""The stack of machines unrolled into a deep autoencoder (Hinton and Salakhutdinov 2006)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.hashing.dbn.rbm import Rbm


def _masked(v: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return v * (torch.rand(v.shape, generator=generator, device=v.device) >= share)


def _jittered(v: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    return v + scale * torch.randn(v.shape, generator=generator, device=v.device)


def _squared(total: Tensor, v: Tensor) -> Tensor:
    return ((total - v) ** 2).mean()


# By kind of visible unit: how the input is noised, and the error of the output layer's input against the data.
NOISE: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {"bernoulli": _masked, "gaussian": _jittered}
ERROR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bernoulli": binary_cross_entropy_with_logits,
    "gaussian": _squared,
}


@dataclass
class Autoencoder:
    """Encoder and decoder as (weights (in, out), bias (out,)) of each layer; sigmoid units but for the output's."""

    visible: str
    encoder: list[tuple[Tensor, Tensor]]
    decoder: list[tuple[Tensor, Tensor]]

    @classmethod
    def unrolled(cls, stack: Sequence[Rbm]) -> Self:
        """The machines upwards, then downwards with copies of their weights, which are free to part from them."""
        encoder = [(rbm.weights.clone(), rbm.hidden_bias.clone()) for rbm in stack]
        decoder = [(rbm.weights.T.clone(), rbm.visible_bias.clone()) for rbm in reversed(stack)]
        return cls(stack[0].visible, encoder, decoder)

    def code_input(self, v: Tensor) -> Tensor:
        """(n, d) -> (n, nbits): the total input of the code units; above 0 is bit 1."""
        for weights, bias in self.encoder[:-1]:
            v = torch.sigmoid(v @ weights + bias)
        weights, bias = self.encoder[-1]
        return v @ weights + bias

    def output_input(self, code: Tensor) -> Tensor:
        """(n, nbits) in [0, 1] -> (n, d): the total input of the output units."""
        for weights, bias in self.decoder[:-1]:
            code = torch.sigmoid(code @ weights + bias)
        weights, bias = self.decoder[-1]
        return code @ weights + bias

    def error(self, code: Tensor, v: Tensor) -> Tensor:
        """Mean over values of the cross-entropy (bernoulli) or squared error (gaussian) of v from its code."""
        return ERROR[self.visible](self.output_input(code), v)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter by name."""
        named: dict[str, Tensor] = {}
        for part, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for i, (weights, bias) in enumerate(layers):
                named |= {f"{part}{i}.weights": weights, f"{part}{i}.bias": bias}
        return named
