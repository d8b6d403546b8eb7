"""Killed at any instant, the next run goes on from the last whole shard and ends with an undisturbed run's bytes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.cache import cache_root
from pipeline.codes import extract, plan
from pipeline.codes.store import Store
from pipeline.nets.weights import Weights, write_canonical
from tests.codes.conftest import draw, make_manifest, make_params
from tests.codes.test_extraction import tree

pytestmark = pytest.mark.network

# A run whose shards hold one batch, slow enough to be met at work; it says when it starts to compute.
RUN = """
import sys, time
from pathlib import Path
import torch
from pipeline.codes import extract, plan
from pipeline.codes.forward import Forward
from pipeline.data.manifest import Manifest
from tests.codes.conftest import make_params
torch.set_num_threads(1)
plan._SHARD_ROWS["cpu"] = 4
launch = Forward.launch
def slow(self, batch):
    time.sleep(0.02)
    return launch(self, batch)
Forward.launch = slow
here = Path(sys.argv[1])
print("ready", flush=True)
extract(Manifest.read(here / "dataset"), here / "weights.safetensors", make_params(), here / "out")
"""
IMAGES = 48


@pytest.fixture
def here(tmp_path: Path, weights: Weights) -> Path:
    for i in range(IMAGES):
        draw(tmp_path / f"images/{i}.png", i, width=64, height=64)
    make_manifest(tmp_path / "images").write(tmp_path / "dataset")
    write_canonical(weights, tmp_path / "weights.safetensors")
    return tmp_path


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_random_and_resumed(
    here: Path, weights: Weights, seed: int, monkeypatch: pytest.MonkeyPatch, count_images: Callable[[], int]
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(plan, "_SHARD_ROWS", {"cpu": 4})
    root = Path(__file__).parents[2]
    for _ in range(2):
        run = subprocess.Popen([sys.executable, "-c", RUN, str(here)], cwd=root, stdout=subprocess.PIPE)
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.5))
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
    manifest = make_manifest(here / "images")
    done = extract_known(manifest.sha256.astype("S64"))
    extract(manifest, weights, make_params(), here / "out")
    assert count_images() == IMAGES - done
    extract(manifest, weights, make_params(), here / "undisturbed", cache=here / "other")
    assert tree(here / "out") == tree(here / "undisturbed")
    whole = {k: v for k, v in tree(here / "cnncodes-cache").items() if ".tmp" not in k}
    assert whole == tree(here / "other")


def extract_known(digests: np.ndarray) -> int:
    """Images that have both of their rows in the test's store."""
    known = np.ones(len(digests), dtype=bool)
    folders = list((cache_root() / "codes").glob("*"))
    for folder in folders:
        with h5py.File(next(folder.glob("*.h5"))) as f:
            settings, dim = json.loads(f.attrs["settings"]), f["codes"].shape[1]
        known &= Store(settings, dim=dim, dtype="float32").known(digests)
    return int(known.sum()) if len(folders) == 2 else 0
