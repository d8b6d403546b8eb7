"""Which layers advice takes where none are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.advice.layers import upper_specs
from pipeline.base.errors import UserError
from pipeline.codes.settings import Normalisation
from pipeline.codes.weights_header import WeightsHeader
from pipeline.nets.vgg import facts
from tests.codes.conftest import make_params


def header(arch: str, *, deepest: str | None = None) -> WeightsHeader:
    norm = Normalisation(channels="rgb", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    tensors = frozenset(facts.tensor_shapes(arch, deepest=deepest))
    return WeightsHeader(arch, "a" * 64, norm, "pillow-bilinear", "rounded", 1000, tensors, Path("-"))


def names(arch: str, *, deepest: str | None = None, side: int = 224) -> list[str]:
    params = make_params(crop=side, scales=[side])
    return [spec.removesuffix("-avg") for spec in upper_specs(header(arch, deepest=deepest), params)]


def test_all_from_conv3_3_up_that_weights_and_size_allow() -> None:
    above = ["conv3_3", "pool3", "conv4_1", "conv4_2", "conv4_3", "pool4", "conv5_1", "conv5_2", "conv5_3", "pool5"]
    assert names("vgg16") == [*above, "fc6", "fc7"]
    assert names("vgg16", deepest="pool5") == names("vgg16", side=96) == above
    assert names("vgg16", deepest="conv4_2") == above[:4]


@pytest.mark.parametrize(("arch", "first"), [("vgg19", "conv3_3"), ("vgg13_bn", "conv3_2"), ("alexnet", "conv3")])
def test_an_architecture_without_it_begins_at_its_third_blocks_end(arch: str, first: str) -> None:
    assert names(arch)[0] == first and names(arch)[-1] == "fc7"


def test_weights_that_stop_before() -> None:
    with pytest.raises(UserError, match="no layer of vgg16 from conv3_3 up"):
        names("vgg16", deepest="conv2_2")
