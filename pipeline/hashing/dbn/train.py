"""Pretraining layer by layer, then fine-tuning of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.hashing.adam import Adam
from pipeline.hashing.dbn.autoencoder import NOISE, Autoencoder
from pipeline.hashing.dbn.rbm import Rbm
from pipeline.hashing.dbn.run import Record, Run

_BLOCK = 4096
_MOMENTUM_EPOCHS = 5  # of .5, before .9 (Hinton 2012, section 9)
# What is told of the held-out rows: the unrounded code (n, nbits) in [0, 1], from which the bits follow.
Evaluate = Callable[[Tensor], dict[str, float]]


@dataclass(frozen=True)
class Pretraining:
    """Of every machine. `gaussian_rate` replaces `rate` where the visible units are Gaussian."""

    epochs: int
    batch: int
    rate: float
    gaussian_rate: float
    decay: float
    scale: float


@dataclass(frozen=True)
class Finetuning:
    """`input_noise`: share of the input set to 0 (bernoulli) or standard deviation of what is added (gaussian).

    `code_noise`: standard deviation of the noise on the code units' input, drawn once for each training case.
    `balance`: weight of the squared distance of each bit's batch mean from one half.
    `decorrelate`: weight of the mean squared correlation between bits. `patience`: epochs without a lower error.
    """

    epochs: int
    batch: int
    rate: float
    input_noise: float
    code_noise: float
    balance: float
    decorrelate: float
    patience: int


def pretrain(
    data: Tensor, held: Tensor, widths: Sequence[int], *, visible: str, how: Pretraining, run: Run
) -> list[Rbm]:
    """A machine for each width, each trained on the hidden probabilities of the one below.

    data (n, d) and held (m, d) are the prepared visible values; held-out rows are only watched.
    """
    stack: list[Rbm] = []
    for level, width in enumerate(widths):
        kind = visible if level == 0 else "bernoulli"
        rbm = train_rbm(data, held, width, visible=kind, how=how, phase=f"rbm{level}", run=run)
        stack.append(rbm)
        if level + 1 < len(widths):
            data, held = blockwise(rbm.hidden, data), blockwise(rbm.hidden, held)
    return stack


def train_rbm(data: Tensor, held: Tensor, width: int, *, visible: str, how: Pretraining, phase: str, run: Run) -> Rbm:
    """One machine by CD-1 with momentum and weight decay.

    Logs the mean squared reconstruction error and the free-energy gap: the mean free energy of held-out rows minus that
    of as many training rows. A gap that grows says that the machine overfits.
    """
    rbm = Rbm.start(
        data.float().mean(0), width, visible=visible, scale=how.scale, generator=run.generator(phase, "start")
    )
    speeds = [torch.zeros_like(p) for p in (rbm.weights, rbm.visible_bias, rbm.hidden_bias)]
    tensors = {"weights": rbm.weights, "visible_bias": rbm.visible_bias, "hidden_bias": rbm.hidden_bias}
    tensors |= {f"speed{i}": speed for i, speed in enumerate(speeds)}
    rate = how.gaussian_rate if visible == "gaussian" else how.rate
    for epoch in range(run.restore(phase, tensors, how.epochs), how.epochs):
        momentum = 0.5 if epoch < _MOMENTUM_EPOCHS else 0.9
        generator = run.generator(phase, epoch)
        error = torch.zeros((), device=run.device)
        for rows in run.order(len(data), how.batch, phase, epoch):
            v = data[rows].float()
            uniform = torch.rand((len(v), width), generator=generator, device=run.device)
            step = rbm.cd1(v, uniform)
            gradients = (step.weights - how.decay * rbm.weights, step.visible_bias, step.hidden_bias)
            for tensor, speed, gradient in zip(tensors.values(), speeds, gradients, strict=False):
                speed.mul_(momentum).add_(gradient, alpha=rate)
                tensor.add_(speed)
            error += step.squared_error * len(v)
        gap = blockwise(rbm.free_energy, held).mean() - blockwise(rbm.free_energy, data[: len(held)]).mean()
        values: Record = {"reconstruction": float(error) / len(data), "free_energy_gap": float(gap)}
        run.keep(phase, epoch + 1, tensors, values)
    return rbm


def finetune(
    data: Tensor, held: Tensor, stack: Sequence[Rbm], *, how: Finetuning, run: Run, evaluate: Evaluate | None
) -> Autoencoder:
    """The autoencoder with the lowest error of the held-out rows from their rounded codes.

    Minimises the error of the clean input from the code of the noised one by Adam.
    """
    net = Autoencoder.unrolled(stack)
    # The machines leave some code units nearly always on or off: each starts at its median instead.
    net.encoder[-1][1].sub_(blockwise(net.code_input, data[: 4 * _BLOCK]).median(0).values)
    weights = net.tensors()
    adam = Adam(weights)
    tensors = dict(weights)
    tensors |= adam.tensors()
    tensors |= {f"best.{name}": p.clone() for name, p in weights.items()}
    tensors["lowest"] = torch.tensor([float("inf"), 0.0], dtype=torch.float64)  # error, epoch
    nbits = net.encoder[-1][0].shape[1]
    noise = torch.randn((len(data), nbits), generator=run.generator("code noise"), device=run.device) * how.code_noise
    for epoch in range(run.restore("finetune", tensors, how.epochs), how.epochs):
        if epoch - tensors["lowest"][1] > how.patience:
            break
        generator = run.generator("finetune", epoch)
        total = torch.zeros((), device=run.device)
        for rows in run.order(len(data), how.batch, "finetune", epoch):
            v = data[rows].float()
            with torch.enable_grad():
                for p in weights.values():
                    p.requires_grad_(True)
                code_input = net.code_input(NOISE[net.visible](v, how.input_noise, generator))
                error = net.error(torch.sigmoid(code_input + noise[rows]), v)
                gradients = torch.autograd.grad(error + _penalty(torch.sigmoid(code_input), how), [*weights.values()])
            for p in weights.values():
                p.requires_grad_(False)
            total += error.detach() * len(v)
            adam.step(gradients, how.rate)
        record = _held_out(net, held, evaluate)
        if record["rounded_held_out"] < tensors["lowest"][0]:
            tensors["lowest"][:] = torch.tensor([record["rounded_held_out"], epoch], dtype=torch.float64)
            for name, p in weights.items():
                tensors[f"best.{name}"].copy_(p)
        values: Record = {"reconstruction": float(total) / len(data), **record}
        run.keep("finetune", epoch + 1, tensors, values)
    for name, p in weights.items():
        p.copy_(tensors[f"best.{name}"])
    return net


def blockwise(function: Callable[[Tensor], Tensor], data: Tensor) -> Tensor:
    """`function` of the rows of `data`, a bounded number at a time."""
    return torch.cat([function(block.float()) for block in torch.split(data, _BLOCK)])


def _penalty(code: Tensor, how: Finetuning) -> Tensor:
    centred = code - code.mean(0)
    spread = centred.square().mean(0).sqrt() + 1e-3
    correlation = (centred.T @ centred / len(code)) / spread.outer(spread)
    others = correlation - correlation.diag().diag()
    return how.balance * (code.mean(0) - 0.5).square().mean() + how.decorrelate * others.square().mean()


def _held_out(net: Autoencoder, held: Tensor, evaluate: Evaluate | None) -> dict[str, Any]:
    """Errors from the unrounded and the rounded code, and how the bits are spread."""
    code = torch.sigmoid(blockwise(net.code_input, held))
    bits = (code > 0.5).float()
    means = bits.mean(0)
    record = {
        "reconstruction_held_out": float(net.error(code, held.float())),
        "rounded_held_out": float(net.error(bits, held.float())),
        "bit_mean_min": float(means.min()),
        "bit_mean_max": float(means.max()),
        "bits_balanced": float(((means >= 0.3) & (means <= 0.7)).float().mean()),
        "code_saturated": float(((code < 0.1) | (code > 0.9)).float().mean()),
    }
    return record | (evaluate(code) if evaluate else {})
