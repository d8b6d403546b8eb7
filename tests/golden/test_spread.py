"""How the demo's tables are compared: what moves too far is said, what processors and precisions move is not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden import demo

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "demo" / "tables.json").read_text())
HEAD = "conv4_3-avg-svm"


def moved(change: Callable[[dict[str, Any]], object]) -> list[str]:
    found = copy.deepcopy(GOLDEN)
    change(found)
    return list(demo.differences(GOLDEN, found))


def test_equal_tables_are_equal() -> None:
    assert moved(lambda t: None) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["heads"][HEAD].update(accuracy=t["heads"][HEAD]["accuracy"] - 0.006),
        lambda t: t["heads"].pop(HEAD),
        lambda t: t["heads"][HEAD].update(log_loss=1.0),
        lambda t: t["codes"]["pool5-avg"].update(key="0" * 64),
        lambda t: t["weights"]["settings"].update(weights_sha256="0" * 64),
        lambda t: t["retrieval"]["itq64-conv5_3-avg"].update(n_queries=1),
        lambda t: t["dataset"]["images"].update(images=1897),
    ],
)
def test_what_moves_too_far_is_said(change: Callable[[dict[str, Any]], object]) -> None:
    assert len(moved(change)) == 1


def test_another_precision_has_other_keys_and_a_wider_spread() -> None:
    def change(t: dict[str, Any]) -> None:
        t["precision"] = "bf16"
        t["codes"]["pool5-avg"]["key"] = "0" * 64
        t["heads"][HEAD]["accuracy"] += 0.01

    assert moved(change) == []


def test_no_time_and_no_memory_is_held() -> None:
    held = set(GOLDEN) - {"commit", "precision"}
    figures = {name for table in held for row in GOLDEN[table].values() for name in row}
    assert not {name for name in figures if demo.PASSED_BY.search(name)}
    assert held <= set(demo.TOLERANCE)
