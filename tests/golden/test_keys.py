"""Keys of the store stay what they were: a key that moves has every code of that kind computed again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import doors, grid
from tests.golden.plain import differences

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("keys.json").read_text())
CASES: dict[str, Any] = GOLDEN["cases"]


def records(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return doors.records(
        arch=asked["arch"], weights_sha256=asked["sha256"], normalisation=asked["normalisation"], codes=asked["codes"]
    )


@pytest.mark.parametrize("name", CASES)
def test_keys_are_what_they_were(name: str) -> None:
    found = records(CASES[name]["asked"])
    assert list(found) == list(CASES[name]["specs"])
    for spec, golden in CASES[name]["specs"].items():
        record = GOLDEN["base"] | golden["differs"]
        assert not list(differences(record, found[spec], f"{name}: {spec}"))
        assert doors.key(found[spec]) == golden["key"]


def test_a_key_is_the_digest_of_its_record() -> None:
    """By the standard library alone: what a stored key means doesn't depend on the product."""
    for case in CASES.values():
        for golden in case["specs"].values():
            text = _canonical(GOLDEN["base"] | golden["differs"])
            assert hashlib.sha256(text.encode()).hexdigest() == golden["key"]


@pytest.mark.parametrize("device", grid.ELSEWHERE)
def test_keys_of_devices_that_may_not_be_here(device: str) -> None:
    assert doors.key(GOLDEN["base"] | {"device": device}) == GOLDEN["elsewhere"][device]


def test_the_grid_is_whole() -> None:
    """A new architecture or preprocessing wants keys of its own here, made by the commit that brings it."""
    assert {name: one["asked"] for name, one in CASES.items()} == dict(grid.cases())


def test_memory_changes_no_key_and_all_else_does() -> None:
    base = hashlib.sha256(_canonical(GOLDEN["base"]).encode()).hexdigest()
    found = {name: records(CASES[name]["asked"]) for name in grid.CHANGES}
    keys = {name: doors.key(one) for name, specs in found.items() for one in specs.values()}
    assert keys.pop("another memory") == base
    assert base not in keys.values() and len(set(keys.values())) == len(keys)


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"))
