"""The evaluation of a hash against a brute force over every image, and each hasher through the whole of it."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
import torch

from pipeline.base import stopping, unfinished
from pipeline.base.errors import UserError
from pipeline.codes.reader import Codes
from pipeline.config import HASHER_NUMBERS, ApproximateIndex, HashSpec
from pipeline.hashing.base import HASHERS
from pipeline.hashing.pack import pack
from pipeline.hashing.save import read_bits, read_hasher
from pipeline.retrieval import run
from pipeline.retrieval.approximate import approximate
from pipeline.retrieval.run import evaluate, run_spec, write
from pipeline.retrieval.sets import sets_of
from pipeline.search import make
from tests.retrieval.world import SPEC, blobs, dataset, params

torch.set_num_threads(1)

SMALL: dict[str, dict[str, Any]] = {
    "dbn": {"hidden": [], "epochs": 4, "rbm_epochs": 2},
    "learned": {"epochs": 1, "neighbours": 3, "teacher_bits": 8},
    "supervised": {"epochs": 2, "hidden": 8},
}


def spec_of(hasher: str, number: int = 8) -> HashSpec:
    return HashSpec.parse(f"{hasher}{number if HASHER_NUMBERS[hasher] else ''}-{SPEC}")


def expected_ap(distances: list[float], relevant: list[bool], k: int) -> float:
    """AP@k over the hits, averaged over every order of the rows that keeps distances rising."""
    scores = []
    for order in itertools.permutations(range(len(distances))):
        if any(distances[a] > distances[b] for a, b in itertools.pairwise(order)):
            continue
        hits = [relevant[i] for i in order[:k]]
        precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
        scores.append(sum(precisions) / len(precisions) if precisions else 0.0)
    return float(np.mean(scores))


def test_every_hasher_has_its_number() -> None:
    assert set(HASHER_NUMBERS) == {"cosine", *HASHERS}
    for hasher, number in HASHER_NUMBERS.items():
        assert not number or number in HASHERS[hasher]().params()


def test_map_by_every_order_of_the_ties() -> None:
    """Eight bits an image, read off codes whose values above ln 3 are the bits."""
    generator = np.random.default_rng(3)
    bits = generator.random((9, 8)) < 0.4
    y = np.array([0, 1, 0, 1, 0, 1, 0, 0, 1])
    splits = ["train", "val", "train", "train", "train", "train", "train", "test", "test"]
    codes, manifest = dataset(np.where(bits, 3.0, 0.5).astype(np.float32), y, splits)
    record = evaluate(spec_of("sigmoid"), codes, manifest, params(k=4)).record
    database = range(7)
    for k, name in ((4, "map_at_k"), (7, "map_all")):
        aps = [
            expected_ap(
                [float((bits[q] != bits[i]).sum()) for i in database], [bool(y[i] == y[q]) for i in database], k
            )
            for q in (7, 8)
        ]
        assert record[name] == pytest.approx(np.mean(aps))
    within = [[i for i in database if (bits[q] != bits[i]).sum() <= 2] for q in (7, 8)]
    shares = [np.mean([y[i] == y[q] for i in near]) if near else 0.0 for q, near in zip((7, 8), within, strict=True)]
    assert record["precision_within_radius"] == pytest.approx(np.mean(shares))
    assert (record["n_fit"], record["n_database"], record["n_queries"]) == (6, 7, 2)
    counts = bits[:7].sum(axis=1)
    assert record["popcount"]["mean"] == pytest.approx(counts.mean())
    assert record["popcount"]["quantiles"][0] == counts.min() and record["popcount"]["quantiles"][-1] == counts.max()


def test_cosine_is_its_own_reference() -> None:
    x, y, splits = blobs(60, 16)
    codes, manifest = dataset(x, y, splits)
    record = evaluate(spec_of("cosine"), codes, manifest, params(k=7)).record
    assert record["recall_at_neighbours"] == 1.0 and record["recall_at_k"] == 1.0
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    test, database = (np.isin(splits, names) for names in (["test"], ["train", "val"]))
    order = np.argsort(-unit[test] @ unit[database].T, axis=1)[:, :7]
    hits = y[database][order] == y[test][:, None]
    precision = np.cumsum(hits, axis=1) / np.arange(1, 8)
    ap = (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
    assert record["map_at_k"] == pytest.approx(ap.mean())
    assert record["map_at_k_se"] == pytest.approx(ap.std(ddof=1) / np.sqrt(len(ap)))
    assert record["bytes_per_image"] == 64 and record["nbits"] is None


@pytest.mark.parametrize("hasher", ["cosine", "lsh"])
def test_a_query_is_never_its_own_answer(hasher: str) -> None:
    """No two images share a class, so whatever a query finds of its own class would be itself."""
    x, _, _ = blobs(20, 16)
    codes, manifest = dataset(x, np.arange(20), ["train"] * 20)
    result = evaluate(spec_of(hasher), codes, manifest, params(k=50, neighbours=50))
    record = result.record
    assert record["queries_from"] == "leave one out"
    assert (record["n_queries"], record["n_database"], record["k"], record["neighbours"]) == (20, 20, 19, 19)
    assert record["map_at_k"] == record["map_all"] == record["precision_at_1"] == 0.0
    assert record["recall_at_neighbours"] == pytest.approx(1.0)
    assert record["linear"] is None


def test_recall_of_true_neighbours_by_brute_force() -> None:
    """Codes of 0 and 1 with equal counts: cosine and Hamming order them alike, so topk finds them all but for ties."""
    generator = np.random.default_rng(0)
    x = np.zeros((40, 16), dtype=np.float32)
    for row in x:
        row[generator.choice(16, 4, replace=False)] = 1
    codes, manifest = dataset(x, None, ["train"] * 30 + ["test"] * 10)
    record = evaluate(spec_of("topk", 4), codes, manifest, params(neighbours=3, k=30)).record
    overlap = x[30:] @ x[:30].T
    shares = []
    for row in overlap:
        true = np.lexsort((np.arange(30), -row))[:3]
        cut = np.sort(row)[::-1][2]
        tied, room = (row == cut).sum(), 3 - (row > cut).sum()
        shares.append(sum(1.0 if row[t] > cut else room / tied for t in true) / 3)
    assert record["recall_at_neighbours"] == pytest.approx(np.mean(shares))
    assert record["recall_at_k"] == 1.0


@pytest.mark.parametrize("hasher", HASHER_NUMBERS)
@pytest.mark.parametrize("labelled", [True, False])
def test_every_hasher_through_the_whole(hasher: str, labelled: bool, tmp_path: Path) -> None:
    x, y, splits = blobs(60, 16)
    codes, manifest = dataset(x, y if labelled else None, splits)
    spec = spec_of(hasher)
    result = evaluate(spec, codes, manifest, params(settings={hasher: SMALL[hasher]} if hasher in SMALL else {}))
    write(result, codes, tmp_path)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bits.h5", "curve.csv", "hasher.h5", "metrics.json", "training.csv",
    ]  # fmt: skip
    if hasher == "supervised" and not labelled:
        assert record["skipped"] == "no labels"
        return
    assert record["spec"] == spec.name
    assert ("map_at_k" in record) == labelled and (record["linear"] is not None) == labelled
    assert all(0 <= record[n] <= 1 for n in ("recall_at_neighbours", "recall_at_k"))
    assert all(record[n] > 0 for n in ("query_p50_ms", "query_p99_ms", "batch_p50_ms", "batch_p99_ms"))
    curve = list(csv.DictReader(io.StringIO((tmp_path / "curve.csv").read_text())))
    recalls = [float(p["recall"]) for p in curve]
    assert recalls == sorted(recalls) and recalls[-1] == 1.0
    if hasher == "cosine":
        with h5py.File(tmp_path / "bits.h5") as f:
            assert "no bits" in f.attrs["skipped"]
        return
    bits = read_bits(tmp_path / "bits.h5")
    fitted = read_hasher(tmp_path / "hasher.h5")
    assert bits.ids.tolist() == manifest.ids.tolist() and bits.nbits == record["nbits"] == 8 * record["bytes_per_image"]
    assert np.array_equal(fitted.hasher.bits(x), bits.unpacked())
    assert fitted.settings == codes.settings and bits.hasher_fingerprint == fitted.fingerprint
    training = list(csv.DictReader(io.StringIO((tmp_path / "training.csv").read_text())))
    assert bool(training) == (hasher == "dbn")


def test_only_train_fits_the_hasher() -> None:
    """Other val and test images change nothing of what was learned."""
    x, y, splits = blobs(60, 16)
    other = np.where((np.array(splits) == "train")[:, None], x, x[::-1] + 1).astype(np.float32)
    first, second = (evaluate(spec_of("itq"), *dataset(rows, y, splits), params()).hasher for rows in (x, other))
    assert first is not None and second is not None
    assert all(np.array_equal(a, b) for a, b in zip(first.arrays().values(), second.arrays().values(), strict=True))


def test_the_loss_from_rounding_is_between_the_two() -> None:
    x, y, splits = blobs(60, 16)
    record = evaluate(spec_of("sigmoid"), *dataset(x, y, splits), params()).record
    assert record["map_at_k_unrounded"] - record["map_at_k"] == pytest.approx(record["rounding_loss"])


def test_the_sparse_take_the_nearest_places_unless_density_is_equal() -> None:
    generator = np.random.default_rng(0)
    x = (generator.random((80, 64)) * generator.uniform(1.15, 1.8, (80, 1))).astype(np.float32)
    codes, manifest = dataset(x, None, ["train"] * 60 + ["test"] * 20)
    uneven = evaluate(spec_of("sigmoid"), codes, manifest, params()).record["popcount"]
    even = evaluate(spec_of("topk", 16), codes, manifest, params()).record["popcount"]
    assert uneven["std"] > 5 and uneven["sparse_share"] > 0.6
    assert even["std"] == 0 and even["sparse_share"] < 0.45


def test_images_without_codes_are_left_out_and_queries_are_sampled() -> None:
    x, y, splits = blobs(60, 16)
    coded = np.arange(60) % 4 != 0
    codes, manifest = dataset(x, y, splits, coded=coded)
    record = evaluate(spec_of("lsh"), codes, manifest, params(max_queries=4)).record
    kept = np.array(splits)[coded]
    assert record["n_fit"] == (kept == "train").sum() and record["n_database"] == (kept != "test").sum()
    assert record["n_queries"] == 4


def test_in_a_labelled_set_images_without_a_label_are_no_queries_and_no_answers() -> None:
    x, y, splits = blobs(40, 6)
    codes, manifest = dataset(x, y, splits)
    bare = np.arange(40) % 7 == 0
    found = sets_of(
        codes, dataclasses.replace(manifest, labels=np.where(bare, "", manifest.labels)), max_queries=99, seed=0
    )
    whole = sets_of(codes, manifest, max_queries=99, seed=0)
    for name in ("train", "val", "database", "queries"):
        rows = getattr(whole, name)
        assert getattr(found, name).tolist() == rows[~bare[rows]].tolist()
    assert found.targets is not None and (found.targets[bare] == -1).all()


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, splits = blobs(60, 16)
    codes, manifest = dataset(x, y, splits)
    figures = ("map_at_k", "map_all", "recall_at_neighbours", "precision_within_radius", "precision_at_k")
    for hasher in ("itq", "cosine"):
        whole = evaluate(spec_of(hasher), codes, manifest, params())
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.retrieval.ranking._BLOCK_GROUPS", 1)
            parts = evaluate(spec_of(hasher), codes, manifest, params())
        assert [whole.record.get(f) for f in figures] == pytest.approx([parts.record.get(f) for f in figures])
        assert whole.curve is not None and parts.curve is not None
        assert np.allclose(whole.curve.precision, parts.curve.precision)


@pytest.mark.parametrize(
    ("hasher", "settings", "said"),
    [
        ("itq", {"itq": {"rounds": 3}}, "itq has no parameter rounds"),
        ("itq", {"itq": {"iterations": "3"}}, "iterations: int"),
        ("topk", {}, "k = 99"),
    ],
)
def test_what_a_hasher_refuses_is_said(hasher: str, settings: dict[str, Any], said: str) -> None:
    x, y, splits = blobs(60, 16)
    with pytest.raises(UserError, match=said):
        evaluate(spec_of(hasher, 99 if hasher == "topk" else 8), *dataset(x, y, splits), params(settings=settings))


def test_nothing_to_search() -> None:
    x, _, _ = blobs(10, 16)
    with pytest.raises(UserError, match="0 training images"):
        evaluate(spec_of("lsh"), *dataset(x, None, ["test"] * 10), params())


def test_a_failed_write_leaves_no_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """metrics.json comes last, so that whoever finds it finds the rest."""
    x, y, splits = blobs(60, 16)
    codes, manifest = dataset(x, y, splits)
    result = evaluate(spec_of("lsh"), codes, manifest, params())
    monkeypatch.setattr(run, "write_bits", lambda *_, **__: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write(result, codes, tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_spec_without_codes_or_with_too_few_images_is_skipped_in_words(tmp_path: Path) -> None:
    codes, manifest = dataset(*blobs(12, 6))
    run.run_spec(HashSpec.parse("lsh16-conv5_3-avg"), tmp_path / "codes", manifest, params(), tmp_path / "none")
    assert "no codes of conv5_3-avg" in json.loads((tmp_path / "none/metrics.json").read_text())["skipped"]
    (tmp_path / "codes/pool5-flatten").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codes, "open", lambda _: codes)
        run.run_spec(HashSpec.parse("itq64-pool5-flatten"), tmp_path / "codes", manifest, params(), tmp_path / "few")
    assert json.loads((tmp_path / "few/metrics.json").read_text())["skipped"]
    assert {p.name for p in (tmp_path / "few").iterdir()} == {p.name for p in (tmp_path / "none").iterdir()}


def test_bad_settings_of_a_hasher_are_an_error_and_no_skip(tmp_path: Path) -> None:
    _, manifest = dataset(*blobs(12, 6))
    bad = params(settings={"itq": {"iteratoins": 3}})
    with pytest.raises(UserError, match="iteratoins"):
        run.run_spec(HashSpec.parse("itq8-pool5-flatten"), tmp_path, manifest, bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", get_args(ApproximateIndex))
def test_recall_of_an_approximate_index_by_brute_force(name: ApproximateIndex) -> None:
    generator = np.random.default_rng(0)
    packed = generator.integers(0, 256, (300, 4), dtype=np.uint8)
    queries = generator.integers(0, 256, (20, 4), dtype=np.uint8)
    exact = make("exact", 32)
    exact.add(packed, np.array([f"{i:03}" for i in range(300)]))
    settings = {
        "multihash": {"tables": 2, "table_bits": 8, "flips": 1},
        "ivf": {"lists": 8, "probes": 2},
        "hnsw": {"links": 4, "build_width": 8, "search_width": 8},
    }[name]
    found = approximate(exact, queries, 5, {name: settings}, timed=2)[name]
    index = make(name, 32, **settings)
    index.add(packed, exact.ids)
    rows = index.search_rows(queries, 5)[1]
    distances = np.bitwise_count(queries[:, None] ^ packed[None]).sum(axis=2)
    hits = [
        sum(distances[q, row] <= np.sort(distances[q])[4] for row in rows[q]) for q in range(20)
    ]  # places that hold a row no farther than the fifth
    assert found["recall"] == pytest.approx(sum(hits) / 100)
    assert found["recall"] < 1 and found["build_s"] > 0 and found["query_p50_ms"] <= found["query_p99_ms"]


def test_an_index_that_does_not_fit_the_code_is_skipped_in_words_and_long_codes_have_none() -> None:
    packed = np.arange(40, dtype=np.uint8).reshape(20, 2)
    exact = make("exact", 16)
    exact.add(packed, np.array([f"{i:02}" for i in range(20)]))
    found = approximate(exact, packed, 3, {"multihash": {"tables": 4, "table_bits": 8, "flips": 0}}, timed=1)
    assert "4 tables of 8 bits" in found["multihash"]["skipped"]
    long = make("exact", 1024)
    long.add(np.zeros((20, 128), np.uint8), exact.ids)
    assert approximate(long, np.zeros((1, 128), np.uint8), 3, {"hnsw": {}}, timed=1) == {}


def test_a_killed_training_goes_on_and_leaves_nothing_once_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, splits = blobs(120, 32)
    _, manifest = dataset(x, y, splits)
    codes, _ = dataset(x, y, splits)
    wanted = params(settings={"dbn": {"hidden": [], "epochs": 4, "rbm_epochs": 2}})
    spec = HashSpec.parse(f"dbn16-{SPEC}")
    undisturbed = evaluate(spec, codes, manifest, wanted)
    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)
    monkeypatch.setattr(Codes, "open", lambda folder: codes)
    (tmp_path / SPEC).mkdir()
    seen: list[object] = []

    def kill(told: object) -> None:
        seen.append(told)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("pipeline.retrieval.run._log_epoch", kill)
        run_spec(spec, tmp_path, manifest, wanted, tmp_path / "out", cache=tmp_path)
    (kept,) = (tmp_path / unfinished.FOLDER).iterdir()
    assert sorted(p.name for p in (kept / "hasher").iterdir()) == ["finetune.h5", "rbm0.h5"]
    monkeypatch.setattr("pipeline.retrieval.run._log_epoch", seen.append)
    run_spec(spec, tmp_path, manifest, wanted, tmp_path / "out", cache=tmp_path)
    assert len(seen) == 2 + 4  # no epoch twice
    assert not kept.exists()
    bits = read_bits(tmp_path / "out" / "bits.h5")
    assert undisturbed.bits is not None and np.array_equal(bits.packed, pack(undisturbed.bits))


def test_a_hash_that_tells_no_training_image_apart_is_skipped_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, splits = blobs(60, 16)
    codes, manifest = dataset(x / 100, y, splits)  # no value passes ln 3
    (tmp_path / SPEC).mkdir()
    monkeypatch.setattr(Codes, "open", lambda folder: codes)
    run_spec(spec_of("sigmoid"), tmp_path, manifest, params(), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["skipped"].startswith("sigmoid gives all 36 training images the same bits (none set)")
    # Codes that are all equal are told apart by nothing, and rightly so.
    same, manifest = dataset(np.ones_like(x), y, splits)
    assert evaluate(spec_of("sigmoid"), same, manifest, params()).record["precision_at_1"] > 0
