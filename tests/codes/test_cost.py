"""What an image takes on its way to codes is told from its header: never less than it takes, and not much more."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.codes import loading
from pipeline.codes.cost import Cost
from pipeline.codes.forward import Forward
from pipeline.codes.settings import Settings, resolve
from pipeline.codes.weights_header import WeightsHeader
from pipeline.data import cost
from pipeline.data.room import Room
from pipeline.nets.weights import Weights, random
from pipeline.nets.weights.preprocessings import TORCHVISION
from tests import peak
from tests.codes.conftest import make_params

pytestmark = pytest.mark.network

# VGG's own maps, without its large fc layers.
ARCHS = ("vgg16-64px-fc8-8", "vgg11_bn-64px-fc8-8")
# What is too small to be given back to the system at once.
SLACK_BYTES = 64 << 20


@pytest.fixture(scope="module")
def networks() -> dict[str, Weights]:
    made = {arch: random.tensors(arch, 0) for arch in ARCHS}
    return {arch: Weights.make(arch, tensors, TORCHVISION, {"source": "random:0"}) for arch, tensors in made.items()}


def specs_of(weights: Weights, **changes: Any) -> list[Settings]:
    header = WeightsHeader.of(weights)
    about = {"weights_sha256": header.sha256, "normalisation": header.normalisation}
    return list(resolve(make_params(**changes), arch=weights.arch, **about).values())


def png(mode: str, width: int, height: int) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (max(1, height // 20), max(1, width // 20), 3), dtype=np.uint8)
    image = Image.fromarray(values).resize((width, height))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def told_and_taken(weights: Weights, data: bytes, **changes: Any) -> tuple[int, int]:
    """Bytes at the highest, of one image through the whole way."""
    specs = specs_of(weights, **changes)
    forward, source = Forward(weights, specs), loading.Source((data,), None, 10**9)

    def through(data: bytes) -> None:
        for batch in loading.batches([loading.Source((data,), None, 10**9)], specs, room=Room(4096)):
            assert not batch.failures
            forward.launch(batch)()

    small = png("RGB", 70, 70)
    taken = peak.of(lambda: through(data), warm=lambda: through(small))
    costs = Cost(specs)
    image_bytes = costs.image_bytes(cost.look(data, max_pixels=source.max_pixels))
    return max(image_bytes, costs.batch_network_bytes()) + costs.batch_bytes(), taken


WHOLE: dict[str, Any] = {"view": "whole", "scales": [500], "layers": ["conv5_2-avg"]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"layers": ["conv1_1-avg", "conv1_2-avg", "pool5-spp"]},
        {"layers": ["conv1_1.pre-gem", "conv1_1-avg", "conv1_2.pre-avg"], "precision": "bf16"},
        {"flip": True, "scales": [64, 400]},
    ],
    ids=str,
)
def test_a_whole_image_in_the_network(networks: dict[str, Weights], changes: dict[str, Any]) -> None:
    told, taken = told_and_taken(networks[ARCHS[0]], png("RGB", 600, 500), **WHOLE | changes)
    assert told / 2 < taken < told + SLACK_BYTES


def test_batch_norm_makes_maps_of_its_own(networks: dict[str, Weights]) -> None:
    told, taken = told_and_taken(networks[ARCHS[1]], png("RGB", 600, 500), **WHOLE)
    assert told / 2 < taken < told + SLACK_BYTES


def test_an_odd_image_that_becomes_a_large_view(networks: dict[str, Weights]) -> None:
    changes = WHOLE | {"scales": [64], "layers": ["pool1-avg"], "precision": "fp32"}
    told, taken = told_and_taken(networks[ARCHS[0]], png("RGB", 120, 1), **changes)
    assert told > 64 * 7680 * 512 and told / 2 < taken < told + SLACK_BYTES


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
@pytest.mark.parametrize("view", ["crop", "squash"])
def test_a_large_scan_that_becomes_a_small_view(networks: dict[str, Weights], mode: str, view: str) -> None:
    told, taken = told_and_taken(networks[ARCHS[0]], png(mode, 3000, 1500), view=view, layers=["conv5_2-avg"])
    assert told / 2 < taken < told + SLACK_BYTES


def test_squashing_a_line_may_need_its_length_at_the_new_width(networks: dict[str, Weights]) -> None:
    """Which side Pillow resizes first has changed with its versions."""
    told, taken = told_and_taken(networks[ARCHS[0]], png("RGB", 1, 200_000), view="squash", layers=["conv5_2-avg"])
    assert told > 200_000 * 64 * 4 and taken < told + SLACK_BYTES


def test_a_batch_takes_its_views_and_maps_on_a_processor_only(networks: dict[str, Weights]) -> None:
    specs = specs_of(networks[ARCHS[0]], batch_size=8, layers=["pool5-flatten"], precision="fp32")
    assert Cost(specs).batch_bytes() == 8 * 3 * 64 * 64
    maps = 8 * 2 * 64 * 64 * 64 * 4
    assert maps < Cost(specs).batch_network_bytes() < 1.3 * maps
    on_gpu = [one.model_copy(update={"device": "cuda"}) for one in specs]
    assert (Cost(on_gpu).batch_bytes(), Cost(on_gpu).batch_network_bytes()) == (8 * 3 * 64 * 64, 0)


def test_a_file_that_is_no_image_takes_nothing(networks: dict[str, Weights], tmp_path: Path) -> None:
    assert Cost(specs_of(networks[ARCHS[0]])).image_bytes(cost.look(b"text", max_pixels=100)) == 0
