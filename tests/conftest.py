"""Fixtures that every test module may use."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

# Modules whose tests take a minute and more each.
_LONGEST = ("test_readme.py", "test_repro.py", "test_round.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, the longest before all, or a worker begins a long one when the others have ended."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, item.path.name not in _LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    """A test that isn't marked `network`, and its fixtures, are refused a precision of `auto`: what runs a network has
    the marker, and is run in both."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("network") is None:
            patch.setenv("CNNCODES_PRECISION", "of tests marked `network`")
        return (yield)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's cache."""
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cnncodes-cache"))
