"""Random weights: their distribution, and that a seed and a name are all they depend on."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.weights import random
from pipeline.nets.weights.check import check


def test_equal_seeds_give_equal_weights_and_others_don_t() -> None:
    one, two, other = (random.tensors("tinyvgg", seed) for seed in (7, 7, 8))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one if k.endswith("weight"))


def test_a_layer_does_not_depend_on_the_classes_behind_it() -> None:
    one, two = random.tensors("tinyvgg", 0, num_classes=3), random.tensors("tinyvgg", 0)
    assert all(torch.equal(one[k], two[k]) for k in one if not k.startswith("fc8"))


def test_values_are_pinned() -> None:
    weight = random.tensors("tinyvgg", 0)["conv1_1.weight"]
    assert weight.flatten()[:3].tolist() == pytest.approx([0.09495454, -0.40978399, 0.11044011], abs=1e-6)


@pytest.mark.parametrize("name", ["fc6.weight", "fc8.weight", "conv5_2.weight"])
def test_he_normal(name: str) -> None:
    values = random.tensors("tinyvgg", 1)[name]
    std = math.sqrt(2 / math.prod(facts.tensor_shapes("tinyvgg")[name][1:]))
    assert abs(float(values.mean())) < 5 * std / math.sqrt(values.numel())
    assert float(values.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * values.numel()))


def test_norms_begin_as_the_identity_and_biases_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = facts.Arch("small_bn", 64, True, facts.find("tinyvgg").ops)
    monkeypatch.setitem(facts.ARCHS, "small_bn", arch)
    tensors = check("small_bn", random.tensors("small_bn", 0))
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            ones = name.startswith("bn") and name.endswith((".weight", ".running_var"))
            assert torch.equal(tensor, torch.full_like(tensor, float(ones))), name


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "²"])
def test_a_seed_is_a_number(text: str) -> None:
    with pytest.raises(UserError, match="has no seed; allowed: random:0"):
        random.seed_of(text)
