"""Adam against torch's AdamW: the same weights after each of some steps."""

from __future__ import annotations

import pytest
import torch

from pipeline.hashing.adam import Adam


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_every_step_is_torchs(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = {name: torch.randn(shape, generator=generator) for name, shape in (("w", (5, 3)), ("b", (3,)))}
    theirs = {name: p.clone().requires_grad_() for name, p in ours.items()}
    own = Adam(ours, decay=decay)
    torchs = torch.optim.AdamW(theirs.values(), lr=1.0, weight_decay=decay, foreach=False)
    for step in range(20):
        rate = 0.1 / (1 + step)
        gradients = [torch.randn(p.shape, generator=generator) for p in ours.values()]
        own.step(gradients, rate)
        torchs.param_groups[0]["lr"] = rate
        for parameter, gradient in zip(theirs.values(), gradients, strict=True):
            parameter.grad = gradient.clone()
        torchs.step()
        for name, parameter in ours.items():
            torch.testing.assert_close(parameter, theirs[name].detach(), rtol=1e-5, atol=1e-6)
