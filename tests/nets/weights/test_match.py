"""What fits is copied, the rest is renewed, and the account says which and why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.nets.vgg import facts
from pipeline.nets.weights import random
from pipeline.nets.weights.check import check
from pipeline.nets.weights.match import match, text


def test_all_that_fits_is_copied(tiny: dict[str, Tensor]) -> None:
    whole, account = match("tinyvgg", tiny, num_classes=5, seed=1)
    assert {entry.outcome for entry in account} == {"copied"}
    assert list(whole) == list(tiny) and all(torch.equal(whole[k], tiny[k]) for k in tiny)


def test_another_number_of_classes_renews_fc8_alone(tiny: dict[str, Tensor]) -> None:
    whole, account = match("tinyvgg", tiny, num_classes=3, seed=1)
    assert [entry.name for entry in account if entry.outcome == "renewed"] == ["fc8"]
    assert "fc8.weight is (5, 32), not (3, 32)" in text(account)
    fresh = random.tensors("tinyvgg", 1, num_classes=3)
    for name, tensor in check("tinyvgg", whole).items():
        assert torch.equal(tensor, (fresh if name.startswith("fc8") else tiny)[name]), name


def test_a_layer_is_renewed_as_one(tiny: dict[str, Tensor]) -> None:
    tiny["fc6.weight"] = torch.zeros(32, 7)
    whole, account = match("tinyvgg", tiny, num_classes=5, seed=1)
    assert torch.equal(whole["fc6.bias"], torch.zeros(32)) and not torch.equal(tiny["fc6.bias"], torch.zeros(32))
    assert next(entry for entry in account if entry.name == "fc6").why == "fc6.weight is (32, 7), not (32, 64)"


def test_missing_and_unknown_tensors_are_accounted_for(tiny: dict[str, Tensor]) -> None:
    del tiny["conv3_2.bias"]
    tiny["layer4.weight"] = torch.zeros(1)
    whole, account = match("tinyvgg", tiny, num_classes=5, seed=1)
    by_name = {entry.name: entry for entry in account}
    assert by_name["conv3_2"].outcome == "renewed" and by_name["conv3_2"].why == "conv3_2.bias is missing"
    assert by_name["layer4.weight"].outcome == "unused"
    assert whole.keys() == facts.tensor_shapes("tinyvgg").keys()


def test_a_norm_goes_with_its_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(facts.ARCHS, "small_bn", facts.Arch("small_bn", 64, True, facts.find("tinyvgg").ops))
    tensors = random.tensors("small_bn", 0)
    tensors["bn2_1.running_mean"] = torch.zeros(7)
    whole, account = match("small_bn", tensors, num_classes=1000, seed=1)
    assert [entry.name for entry in account if entry.outcome == "renewed"] == ["conv2_1"]
    assert not torch.equal(whole["conv2_1.weight"], tensors["conv2_1.weight"])
