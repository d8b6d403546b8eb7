"""Losses by hand, against torch's own, and the gradient that defines them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.strategies.losses import LOSSES, cross_entropy, hinge, soft_labels


def test_cross_entropy_of_nothing_known_is_ln_k() -> None:
    labels = soft_labels(torch.tensor([0, 3]), 7)
    assert float(cross_entropy(torch.zeros(2, 7), labels)) == pytest.approx(math.log(7))


def test_hinge_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0], [0.0, 0.0, 0.0]])
    # Row 0, class 0: 1 + 1.5 - 2 = 0.5 and 0; row 1, class 2: 1 and 1.
    assert float(hinge(logits, soft_labels(torch.tensor([0, 2]), 3))) == pytest.approx((0.5 + 2) / 2)


def test_hinge_is_torchs_multi_margin_times_k() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 5, generator=generator)
    targets = torch.arange(9) % 5
    expected = F.multi_margin_loss(logits, targets) * 5
    assert float(hinge(logits, soft_labels(targets, 5))) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_linear_in_its_labels(name: str) -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0, 0.1]])
    a, b = (soft_labels(torch.tensor([c]), 4) for c in (1, 3))
    mixed = LOSSES[name](logits, 0.3 * a + 0.7 * b)
    assert float(mixed) == pytest.approx(0.3 * float(LOSSES[name](logits, a)) + 0.7 * float(LOSSES[name](logits, b)))


def test_smoothed_labels_sum_to_one() -> None:
    labels = soft_labels(torch.tensor([2]), 4, smoothing=0.2)
    assert labels.tolist() == [pytest.approx([0.05, 0.05, 0.85, 0.05])]
