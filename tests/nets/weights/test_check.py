"""One check, one error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.weights.check import check


def test_one_error_names_everything(tiny: dict[str, Tensor]) -> None:
    del tiny["conv2_1.bias"], tiny["fc6.weight"]
    tiny["conv1_1.weight"] = tiny["conv1_1.weight"][:, :, :2]
    tiny["conv3_1.bias"] = tiny["conv3_1.bias"].long()
    tiny["conv4_1.weight"][0, 0, 0, 0] = torch.nan
    tiny["conv4_2.bias"][0] = torch.inf
    tiny["classifier.9.weight"] = torch.zeros(3)
    with pytest.raises(UserError) as e:
        check("tinyvgg", tiny)
    assert str(e.value) == (
        "these are not whole weights of tinyvgg: "
        "of the wrong shape: conv1_1.weight (4, 3, 2, 3), not (4, 3, 3, 3); "
        "missing: conv2_1.bias, fc6.weight; "
        "not floating point: conv3_1.bias torch.int64; "
        "holding NaN or infinity: conv4_1.weight, conv4_2.bias; "
        "unexpected: classifier.9.weight; "
        "see `cnncodes layers --arch tinyvgg`"
    )


def test_weights_may_stop_at_any_depth(tiny: dict[str, Tensor]) -> None:
    names = list(facts.tensor_shapes("tinyvgg"))
    for end in range(2, len(names) + 1, 2):
        assert list(check("tinyvgg", {k: tiny[k] for k in names[:end]})) == names[:end]


@pytest.mark.parametrize("hole", ["conv1_1.weight", "conv5_3.bias", "fc7.bias", "fc8.bias"])
def test_a_hole_is_missing(tiny: dict[str, Tensor], hole: str) -> None:
    del tiny[hole]
    with pytest.raises(UserError, match=f"missing: {hole};"):
        check("tinyvgg", tiny)


def test_no_weights_at_all_are_refused() -> None:
    with pytest.raises(UserError, match=r"missing: conv1_1\.weight"):
        check("tinyvgg", {})


def test_weights_of_another_architecture_are_refused(tiny: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"of the wrong shape: conv1_1\.weight \(4, 3, 3, 3\), not \(64, 3, 3, 3\)"):
        check("vgg16", tiny)


def test_fc8_may_have_any_number_of_rows_but_one(tiny: dict[str, Tensor]) -> None:
    assert check("tinyvgg", tiny)["fc8.weight"].shape == (5, 32)
    tiny["fc8.bias"] = torch.zeros(6)
    with pytest.raises(UserError, match=r"fc8\.bias \(6,\), not \(5,\)"):
        check("tinyvgg", tiny)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_becomes_float32(tiny: dict[str, Tensor], dtype: torch.dtype) -> None:
    whole = check("tinyvgg", {k: t.to(dtype) for k, t in tiny.items()})
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in whole.values())
    assert torch.equal(whole["fc7.weight"], tiny["fc7.weight"].to(dtype).float())


def test_a_float64_beyond_float32_is_refused(tiny: dict[str, Tensor]) -> None:
    tiny["fc7.bias"] = tiny["fc7.bias"].double()
    tiny["fc7.bias"][0] = 1e300
    with pytest.raises(UserError, match=r"holding NaN or infinity: fc7\.bias"):
        check("tinyvgg", tiny)


def test_a_negative_variance_is_refused() -> None:
    tensors = {k: torch.ones(s) for k, s in facts.tensor_shapes("vgg11_bn", deepest="conv1_1").items()}
    tensors["bn1_1.running_var"][5] = -1e-3
    with pytest.raises(UserError, match=r"holding a negative variance: bn1_1\.running_var"):
        check("vgg11_bn", tensors)
    del tensors["bn1_1.running_var"], tensors["bn1_1.bias"]
    with pytest.raises(UserError, match=r"missing: bn1_1\.bias, bn1_1\.running_var"):
        check("vgg11_bn", tensors)
