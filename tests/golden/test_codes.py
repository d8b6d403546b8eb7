"""Codes of small networks: equal to the byte between two runs here, and near the stored ones everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import networks, plain

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("codes.json").read_text())["rows"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("networks")
    networks.prepare(made)
    return made


@pytest.mark.parametrize("precision", networks.PRECISIONS)
@pytest.mark.parametrize("name", networks.CASES)
def test_codes_are_what_they_were(folder: Path, name: str, precision: str) -> None:
    run = f"{list(networks.CASES).index(name)}-{precision}"
    found = networks.rows(folder, name, precision, f"{run}-first")
    stored = GOLDEN[f"{name}, {precision}"]
    assert found.keys() == stored.keys()
    far = {spec: networks.distance(rows, networks.unpack(stored[spec])) for spec, rows in found.items()}
    assert max(far.values()) <= networks.TOLERANCE[precision], far

    again = networks.rows(folder, name, precision, f"{run}-second")
    for spec, rows in found.items():
        np.testing.assert_array_equal(rows, again[spec])
    first, second = (folder / f"{run}-{which}" for which in ("first", "second"))
    assert plain.files(first) == plain.files(second)
    for file in plain.files(first):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_the_tolerance_tells_networks_apart() -> None:
    """Codes of another precision, layer or view are farther than what processors differ by."""
    plain_name, other = "tinyvgg, all kinds of layers", "tinyvgg, squashed"
    fp32, bf16 = (networks.unpack(GOLDEN[f"{plain_name}, {p}"]["pool5-flatten"]) for p in networks.PRECISIONS)
    assert networks.distance(bf16, fp32) > 10 * networks.TOLERANCE["fp32"]
    squashed = networks.unpack(GOLDEN[f"{other}, fp32"]["pool5-flatten"])
    assert networks.distance(squashed, fp32) > 10 * networks.TOLERANCE["bf16"]


def test_every_case_is_stored() -> None:
    assert set(GOLDEN) == {f"{name}, {precision}" for name in networks.CASES for precision in networks.PRECISIONS}
