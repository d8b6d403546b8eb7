"""A tuned network is a network: its fc7 is extracted, hashed and searched by the calls that serve every other."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.base import stopping
from pipeline.base.errors import UserError
from pipeline.codes import Codes
from pipeline.collection import Collection
from pipeline.config import CodesParams, HeadsParams, RetrievalParams, TunedParams
from pipeline.data.manifest import Manifest
from pipeline.hashing.save import read_bits, read_hasher
from pipeline.nets.weights import write_canonical
from pipeline.retrieval import run as retrieval
from pipeline.search import make
from pipeline.strategies import saved
from pipeline.strategies.run import run_strategy
from pipeline.tuned import Protocol, measure
from pipeline.workspace import preset
from tests.strategies import world

pytestmark = pytest.mark.network

LAYERS = ["pool5-avg", "fc6-flatten", "fc7-flatten"]
ARCH = "tinyvgg-32px-fc12-10"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ with a folder a class, source.safetensors, vgg/ and gap/: networks tuned for an epoch."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tuned")
    manifest = world.manifest(folder / "flat", repeats=2)
    write_canonical(world.weights(), folder / "source.safetensors")
    manifest.write(folder / "dataset")
    for head in ("vgg", "gap"):
        params = world.params(head=head, epochs=1)
        run_strategy("partial", manifest, world.weights(), params, folder / head, cache=folder / "cache")
    for row in range(len(manifest)):
        target = folder / "images" / str(manifest.labels[row]) / str(manifest.paths[row])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(manifest.file(row).read_bytes())
    return folder


@pytest.fixture(scope="module")
def manifest(place: Path) -> Manifest:
    return Manifest.read(place / "dataset")


def protocol(**changes: Any) -> Protocol:
    params = {
        "strategy": "partial",
        "layers": LAYERS,
        "heads": ["svm"],
        "hashes": ["itq8-fc7-flatten"],
        "batch_size": 8,
    } | changes
    few = {"timed_queries": 2, "k": 5, "neighbours": 3, "c_grid": [1.0]}
    return Protocol(
        config.validate(TunedParams, params, where="tuned"),
        preset(CodesParams, precision="auto", dtype="float32", device="cpu", crop=96, scales=[96], flip=False),
        preset(HeadsParams, c_grid=[1.0]),
        preset(RetrievalParams, **few),
    )


@pytest.fixture(scope="module")
def measured(place: Path, manifest: Manifest) -> dict[str, Any]:
    cache = place / "cache"
    return measure(place / "vgg", place / "source.safetensors", manifest, protocol(), place / "out", cache=cache)


def test_fc7_of_a_tuned_network_is_hashed_and_searched(
    place: Path, manifest: Manifest, measured: dict[str, Any]
) -> None:
    codes = Codes.open(place / "out/codes/fc7-flatten")
    assert (codes.dim, len(codes), codes.settings["arch"]) == (10, len(manifest), ARCH)
    assert (codes.settings["crop"], codes.settings["scales"]) == (32, [36]), "the view of the training, not 96 px"
    # The classifier's own words: fc8 of these codes.
    weights = saved.read(place / "vgg")
    rows = manifest.rows("test")
    logits = weights.model.head.fc8(torch.from_numpy(codes.by_id(manifest.ids[rows])))  # type: ignore[union-attr]
    shown = weights.probabilities([manifest.file(int(i)) for i in rows])
    np.testing.assert_allclose(logits.softmax(dim=1).detach().numpy(), shown, atol=2e-2)
    # Bits of these codes, and an index of the bits.
    folder = place / "out/retrieval/itq8-fc7-flatten"
    bits = read_bits(folder / "bits.h5")
    fitted = read_hasher(folder / "hasher.h5")
    fitted.require(codes.settings)
    assert np.array_equal(fitted.hasher.bits(codes.rows(slice(None))), bits.unpacked())
    index = make("exact", 8)
    index.add(bits.packed, bits.ids)
    distances, ids = index.search(bits.packed[:3], 1)
    assert (distances == 0).all() and len(ids) == 3
    assert measured["hashes"]["itq8-fc7-flatten"]["map_at_k"].keys() == {"tuned"}


def test_both_networks_stand_beside_each_other(place: Path, measured: dict[str, Any]) -> None:
    assert measured == json.loads((place / "out/metrics.json").read_text())
    assert measured["networks"]["tuned"]["arch"] == ARCH
    assert measured["networks"]["source"]["arch"] == "tinyvgg"
    assert measured["accuracy"]["pool5-avg"]["svm"].keys() == {"source", "tuned"}
    # The source's fc layers are for 64 px.
    assert measured["left_out"]["source"].keys() == {"fc6-flatten", "fc7-flatten"}
    assert "64 x 64" in measured["left_out"]["source"]["fc7-flatten"]
    assert measured["left_out"]["tuned"] == {}


def test_only_the_split_that_the_network_was_tuned_on_is_used(
    place: Path, manifest: Manifest, measured: dict[str, Any]
) -> None:
    """Heads of a second split would be tested on images that trained the network."""
    assert manifest.repeats == 2
    trained = set(manifest.ids[manifest.rows("train", 0)])
    assert trained & set(manifest.ids[manifest.rows("test", 1)]), "the other split's test would leak"
    for root in (place / "out", place / "out/source"):
        record = json.loads((root / "heads/pool5-avg-svm/metrics.json").read_text())
        assert [r["repeat"] for r in record["repeats"]] == [0]
        assert record["repeats"][0]["n_test"] == len(manifest.rows("test", 0)) == measured["n_test"]


def test_a_gap_head_leaves_fc_layers_out_in_words(place: Path, manifest: Manifest, tmp_path: Path) -> None:
    source = place / "source.safetensors"
    record = measure(place / "gap", source, manifest, protocol(), tmp_path, cache=place / "cache")
    assert record["left_out"]["tuned"].keys() == {"fc6-flatten", "fc7-flatten"}
    assert "stop at pool5" in record["left_out"]["tuned"]["fc7-flatten"]
    assert record["hashes"] == {} and record["accuracy"]["pool5-avg"]["svm"].keys() == {"source", "tuned"}
    for folder in ("codes", "heads", "retrieval", "source"):
        assert (tmp_path / folder).is_dir(), "DVC asks for every out"


@pytest.mark.parametrize("why", ["no labels", "left no tuned network"])
def test_what_has_no_tuned_network_is_skipped_in_words(
    why: str, place: Path, manifest: Manifest, tmp_path: Path
) -> None:
    bare = dataclasses.replace(manifest, labels=np.full(len(manifest), "", dtype="U1"))
    given, folder = (bare, place / "vgg") if why == "no labels" else (manifest, tmp_path / "none")
    record = measure(folder, place / "source.safetensors", given, protocol(), tmp_path / "out")
    assert why in record["skipped"]
    assert why in (tmp_path / "out/codes/skipped.txt").read_text()


def test_a_stop_keeps_what_was_found_of_a_hash(
    place: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)
    monkeypatch.setattr(retrieval, "by_class", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        measure(
            place / "vgg",
            place / "source.safetensors",
            manifest,
            protocol(),
            tmp_path / "out",
            cache=tmp_path / "cache",
        )
    assert any("what was found is kept" in note for note in stopped.value.__notes__)


def test_hashes_need_their_codes() -> None:
    with pytest.raises(UserError, match=r"not in tuned\.layers"):
        protocol(hashes=["itq8-fc8-flatten"])


def cnncodes(*args: str, cwd: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "CNNCODES_CACHE": str(cwd / "cache")}
    command = [sys.executable, "-m", "pipeline.cli", *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_process_knows_a_tuned_network_by_its_file_alone(place: Path, manifest: Manifest) -> None:
    network = ("--weights", "vgg/model.safetensors", "--device", "cpu")
    found = json.loads(
        cnncodes("extract", "images", *network, "--layers", "fc7", "--out", "codes", "--json", cwd=place)
    )
    assert found["fc7-avg"]["dim"] == 10 and found["fc7-avg"]["images"] == len(manifest)
    settings = Codes.open(place / "codes/codes/fc7-avg").settings
    assert (settings["arch"], settings["crop"], settings["scales"]) == (ARCH, 32, [36])
    args = ("--layer", "fc7", "--hasher", "itq", "--bits", "8", "--long", "", "--out", "my.index", "--json")
    about = json.loads(cnncodes("index", "images", *network, *args, cwd=place))
    assert about["weights"]["arch"] == ARCH and about["short"]["spec"] == "fc7-avg"
    # A query runs the network that lies in the index.
    nearest = Collection.open(place / "my.index").search(manifest.file(5), k=1, method="cosine").neighbours[0]
    assert nearest.id == manifest.ids[5] and nearest.distance == pytest.approx(0, abs=1e-3)
