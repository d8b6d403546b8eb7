"""What users keep is read as it was: the same answers, and nothing is computed again for them.

`old.tar.gz` holds a store, codes, heads, hashes, indexes, a collection and tuned networks that were made once, at the
commit in `old.json`, which has their answers. Floats that are computed from stored arrays may differ by SUMS, since
processors add up in different orders; what went through a network, in float32, by NETWORK.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden import doors, fixed, plain, world

HERE = Path(__file__).parent
GOLDEN: dict[str, Any] = json.loads((HERE / "old.json").read_text())
SUMS, NETWORK = 1e-5, 1e-3


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world, which no test writes to."""
    return world.unpack(HERE / "old.tar.gz", tmp_path_factory.mktemp("old"))


@pytest.fixture
def old(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in the current folder, with its own cache."""
    root = tmp_path / "world"
    shutil.copytree(unpacked, root)
    monkeypatch.setenv("CNNCODES_CACHE", str(root / "cache"))
    monkeypatch.chdir(root)
    return root


def near(stored: Any, found: Any, tolerance: float, where: str = "") -> None:
    """Plain values that are equal, floats within `tolerance` of 1 or of the larger."""
    found = json.loads(json.dumps(found)) if not where else found
    if isinstance(stored, dict) and isinstance(found, dict):
        assert stored.keys() == found.keys(), where
        for name in stored:
            near(stored[name], found[name], tolerance, f"{where}/{name}")
    elif isinstance(stored, list) and isinstance(found, list):
        assert len(stored) == len(found), where
        for i, (a, b) in enumerate(zip(stored, found, strict=True)):
            near(a, b, tolerance, f"{where}/{i}")
    elif isinstance(stored, float):
        assert found == pytest.approx(stored, rel=tolerance, abs=tolerance), where
    else:
        assert stored == found, where


@pytest.mark.parametrize("what", ["manifest", "codes", "bits", "indexes"])
def test_it_is_read_as_it_was(old: Path, what: str) -> None:
    """To the byte."""
    with doors.counted() as computed:
        near(GOLDEN[what], world.ANSWERS[what](old), 0)
    assert computed.nothing(), computed


@pytest.mark.parametrize("what", ["heads", "collection", "curves", "distances"])
def test_it_answers_as_it_did(old: Path, what: str) -> None:
    with doors.counted() as computed:
        near(GOLDEN[what], world.ANSWERS[what](old), SUMS)
    assert computed.nothing(), computed


@pytest.mark.parametrize("what", ["heads_on_new_images", "collection_and_new_images", "tuned", "new_codes"])
def test_new_images_are_seen_as_they_were(old: Path, what: str) -> None:
    """Through the network, and nothing else."""
    with doors.counted() as computed:
        near(GOLDEN[what], world.ANSWERS[what](old), NETWORK)
    assert computed.forward and not computed.steps and not computed.fits


def test_the_counters_count(old: Path) -> None:
    """What the other tests find to be nothing would show."""
    with doors.counted() as computed:
        doors.fit(old / "out", "pool5-flatten", "svm")
        doors.retrieve(old / "out", "lsh16-pool5-flatten", world.RETRIEVAL)
    assert {"svm", "lsh"} <= set(computed.fits) and not computed.forward and not computed.steps
    with doors.counted() as computed:
        doors.finetune_again(old / "out", "scratch", world.STRATEGIES, **world.TUNED["out"] | {"epochs": 1})
    assert computed.forward and computed.steps


def test_every_answer_is_held() -> None:
    assert set(world.ANSWERS) | {"commit"} == set(GOLDEN)


@pytest.mark.parametrize("spec", [s for s in world.HASHES if not s.startswith("cosine")])
def test_a_saved_hasher_gives_the_saved_bits(old: Path, spec: str) -> None:
    ids, rows, _ = doors.read_codes(old / "out" / "codes" / doors.hashed_codes(spec))
    saved_ids, packed = doors.saved_bits(old / "out" / "retrieval" / spec)
    with doors.counted() as computed:
        np.testing.assert_array_equal(doors.hash_again(old / "out" / "retrieval" / spec, rows), packed)
    assert ids == saved_ids and computed.nothing()


def extract(images: str, out: str) -> None:
    doors.extract(images, out, world.SPECS, weights=world.WEIGHTS, codes=world.CODES, dataset=world.DATASET)


def parts(folder: Path) -> dict[str, Any]:
    return {file.as_posix(): plain.content(folder / file) for file in plain.files(folder)}


def test_the_store_serves_a_new_folder(old: Path) -> None:
    with doors.counted() as computed:
        extract("images", "again")
    assert computed.nothing(), computed
    assert parts(old / "again" / "codes") == parts(old / "out" / "codes")
    assert (old / "again" / "dataset" / "manifest.csv").read_bytes() == (
        old / "out" / "dataset" / "manifest.csv"
    ).read_bytes()


def test_an_extraction_into_the_old_folder_changes_nothing(old: Path) -> None:
    before = {file: (old / "out" / "codes" / file).read_bytes() for file in plain.files(old / "out" / "codes")}
    shards = plain.files(old / "cache" / "codes")
    with doors.counted() as computed:
        extract("images", "out")
    assert computed.nothing(), computed
    assert {file: (old / "out" / "codes" / file).read_bytes() for file in before} == before
    assert plain.files(old / "cache" / "codes") == shards


def test_new_images_alone_are_computed(old: Path) -> None:
    """One costs a batch, as two do, where all of them would be twelve; the rows that are there stay."""
    _, before, key = doors.read_codes(old / "out" / "codes" / "pool5-flatten")
    costs = []
    for names in (["red"], ["blue", "green"]):
        for name in names:
            shutil.copy(old / "new" / name / f"{world.PER_CLASS}.png", old / "images" / name / "new.png")
        with doors.counted() as computed:
            extract("images", "out")
        costs.append(computed.forward)
    assert costs[0] == costs[1] > 0
    _, after, same = doors.read_codes(old / "out" / "codes" / "pool5-flatten")
    assert same == key and len(after) == len(before) + 3
    assert {row.tobytes() for row in before} < {row.tobytes() for row in after}


def test_codes_of_a_tuned_network_come_from_the_store(old: Path) -> None:
    strategy = old / "out" / "finetune" / "finetune"
    before = parts(old / "out" / "tuned" / "codes")
    with doors.counted() as computed:
        doors.measure_tuned(
            strategy, old / "out" / "tuned", layer=world.TUNED_LAYER, hashes=[world.TUNED_HASH], codes=world.CODES
        )
    assert not computed.forward and not computed.steps
    assert parts(old / "out" / "tuned" / "codes") == before


@pytest.mark.parametrize("name", [n for n in world.STRATEGIES if n != "frozen"])
def test_a_finished_strategy_is_not_trained_again(old: Path, name: str) -> None:
    """`frozen` may be: its codes are a matter of last digits."""
    before = json.loads((old / "out" / "finetune" / name / "metrics.json").read_text())
    with doors.counted() as computed:
        found = doors.finetune_again(old / "out", name, world.STRATEGIES, **world.TUNED["out"])
    assert computed.nothing(), computed
    assert found == before


def test_images_of_an_old_collection_cost_nothing_to_add_again(old: Path) -> None:
    """They lie elsewhere than where they were indexed, and are known by their content."""
    ids, packed, columns = doors.index_rows(old / "my.index")
    with doors.counted() as computed:
        doors.add_images(old / "my.index", old / "images")
    assert computed.nothing(), computed
    after_ids, after_packed, after_columns = doors.index_rows(old / "my.index")
    assert after_ids == ids
    np.testing.assert_array_equal(after_packed, packed)
    for name in columns.keys() - {"path", "root"}:
        np.testing.assert_array_equal(after_columns[name], columns[name])


def test_an_old_collection_grows(old: Path) -> None:
    before, packed, _ = doors.index_rows(old / "my.index")
    with doors.counted() as computed:
        doors.add_images(old / "my.index", old / "new")
    assert computed.forward and not computed.fits
    ids, after, _ = doors.index_rows(old / "my.index")
    assert len(ids) == len(before) + len(world.COLOURS)
    np.testing.assert_array_equal(after[np.searchsorted(ids, before)], packed)


@pytest.mark.parametrize("kind", fixed.INDEXES)
def test_an_old_index_grows(old: Path, kind: str) -> None:
    folder = old / "indexes" / kind
    ids, packed, _ = doors.index_rows(folder)
    doors.add_to_index(folder, packed[:1], np.array(["zz-0"]), {"label": np.array(["a longer label"])})
    assert doors.index_rows(folder)[0] == [*ids, "zz-0"]
    first = doors.search_index(folder, packed[:1], 2)[0]
    assert [distance for _, distance in first] == [0, 0] and {i for i, _ in first} == {ids[0], "zz-0"}
