"""Shared by the tests of fine-tuning: one thread, one set of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.data.manifest import Manifest
from tests.strategies import world


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return world.manifest(tmp_path_factory.mktemp("images"), repeats=2)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images, once for all tests; runs that must not see each other's checkpoints take another folder."""
    return tmp_path_factory.mktemp("cache")
