"""Killed or stopped at any instant, the next run goes on from what is kept and ends with an undisturbed run's bytes."""

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

from pipeline.base import stopping
from pipeline.base.cache import cache_root
from pipeline.codes import extract, plan
from pipeline.codes.store import Store
from pipeline.nets.weights import Weights, write_canonical
from tests.codes.conftest import draw, make_manifest, make_params
from tests.codes.test_extraction import tree

pytestmark = pytest.mark.network
MORE = [pytest.mark.slow, pytest.mark.one_precision]  # other instants of the same kill

# A run that is slow enough to be met at work; it says when it starts to compute, and each time that it has a batch.
# Arguments: the folder, rows of a shard, seconds between writes.
RUN = """
import sys, time
from pathlib import Path
import torch
from pipeline.base import front, stopping
from pipeline.codes import extract, plan
from pipeline.codes.forward import Forward
from pipeline.data.manifest import Manifest
from tests.codes.conftest import make_params
torch.set_num_threads(1)
plan._SHARD_ROWS["cpu"] = int(sys.argv[2])
stopping.KEEP_EVERY_S = float(sys.argv[3])
launch = Forward.launch
def slow(self, batch):
    time.sleep(0.02)
    print("batch", flush=True)
    return launch(self, batch)
Forward.launch = slow
here = Path(sys.argv[1])
def main():
    print("ready", flush=True)
    extract(Manifest.read(here / "dataset"), here / "weights.safetensors", make_params(), here / "out")
front.run(main, name="run")
"""
IMAGES = 48
ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, weights: Weights) -> Path:
    for i in range(IMAGES):
        draw(tmp_path / f"images/{i}.png", i, width=64, height=64)
    make_manifest(tmp_path / "images").write(tmp_path / "dataset")
    write_canonical(weights, tmp_path / "weights.safetensors")
    return tmp_path


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=MORE) for seed in (1, 2))])
def test_killed_at_random_and_resumed(
    here: Path, weights: Weights, seed: int, monkeypatch: pytest.MonkeyPatch, count_images: Callable[[], int]
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(plan, "_SHARD_ROWS", {"cpu": 4})
    for _ in range(2):
        with start(here, shard_rows=4) as run:
            time.sleep(rng.uniform(0.0, 0.5))
            run.kill()
    manifest = make_manifest(here / "images")
    done = extract_known(manifest.sha256.astype("S64"))
    extract(manifest, weights, make_params(), here / "out")
    assert count_images() == IMAGES - done
    extract(manifest, weights, make_params(), here / "undisturbed", cache=here / "other")
    assert tree(here / "out") == tree(here / "undisturbed")
    whole = {k: v for k, v in tree(here / "cnncodes-cache").items() if ".tmp" not in k}
    assert whole == tree(here / "other")


def start(here: Path, *, shard_rows: int = 256, keep_every_s: float = 30.0) -> subprocess.Popen[bytes]:
    """A run that begins to compute."""
    command = [sys.executable, "-c", RUN, str(here), str(shard_rows), str(keep_every_s)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.readline() == b"ready\n"
    return run


def await_batches(run: subprocess.Popen[bytes], count: int) -> None:
    assert run.stdout is not None
    for _ in range(count):
        assert run.stdout.readline() == b"batch\n"


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if ".tmp" in p.name]


def shards(here: Path) -> int:
    """Of each of the two stores, at most."""
    return max(len(list(f.glob("*.h5"))) for f in (here / "cnncodes-cache/codes").iterdir())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_writes_at_once_what_is_done_and_says_so(
    here: Path, weights: Weights, how: signal.Signals, count_images: Callable[[], int]
) -> None:
    """A shard is larger than the set, and no minute has passed."""
    with start(here) as run:
        await_batches(run, 6)
        run.send_signal(how)
        _, said = run.communicate()
    assert run.returncode == 128 + how
    manifest = make_manifest(here / "images")
    known = extract_known(manifest.sha256.astype("S64"))
    # The batch that was in the network, and the one whose rows wait for the next, may be lost.
    assert 4 * 4 <= known < IMAGES
    name = "Ctrl-C" if how == signal.SIGINT else "SIGTERM"
    note = f"{known} of {IMAGES} images are kept; the same command goes on from there"
    assert said.decode().splitlines()[-1] == f"run: stopped by {name}; {note}"
    assert not leftovers(here)
    extract(manifest, weights, make_params(), here / "out")
    assert count_images() == IMAGES - known
    extract(manifest, weights, make_params(), here / "undisturbed", cache=here / "other")
    assert tree(here / "out") == tree(here / "undisturbed")


def test_killed_it_loses_what_was_done_since_the_last_write(
    here: Path, weights: Weights, count_images: Callable[[], int]
) -> None:
    with start(here, keep_every_s=0.0) as run:
        await_batches(run, 8)
        run.kill()
    manifest = make_manifest(here / "images")
    known = extract_known(manifest.sha256.astype("S64"))
    assert 4 <= known < IMAGES
    # The one that grows, and the one that took its place as it was killed.
    assert shards(here) <= 2
    time.sleep(1.0)
    extract(manifest, weights, make_params(), here / "out")
    assert count_images() == IMAGES - known
    assert not leftovers(here)
    extract(manifest, weights, make_params(), here / "undisturbed", cache=here / "other")
    assert tree(here / "out") == tree(here / "undisturbed")


def test_often_written_the_store_holds_the_same_shards(
    here: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_SHARD_ROWS", {"cpu": 16})
    manifest = make_manifest(here / "images")
    extract(manifest, weights, make_params(), here / "seldom", cache=here / "other")
    monkeypatch.setattr(stopping, "KEEP_EVERY_S", 0.0)
    extract(manifest, weights, make_params(), here / "often")
    assert tree(here / "cnncodes-cache") == tree(here / "other")
    assert shards(here) == IMAGES / 16


def extract_known(digests: np.ndarray) -> int:
    """Images that have both of their rows in the test's store."""
    known = np.ones(len(digests), dtype=bool)
    folders = list((cache_root() / "codes").glob("*"))
    for folder in folders:
        with h5py.File(next(folder.glob("*.h5"))) as f:
            settings, dim = json.loads(f.attrs["settings"]), f["codes"].shape[1]
        known &= Store(settings, dim=dim, dtype="float32").known(digests)
    return int(known.sum()) if len(folders) == 2 else 0
