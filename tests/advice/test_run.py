"""The whole advice: what it decides, what it never sees, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.advice import reference, rule
from pipeline.advice.measure import Point, Scored, expected
from pipeline.advice.rule import RULE, top_half
from pipeline.advice.run import advise, write
from pipeline.advice.seen import seen_of
from pipeline.base.errors import UserError
from pipeline.codes.reader import Codes
from tests.advice.world import APART, heads, params, rows_of, world


def test_the_best_layer_is_advised_and_an_early_one_means_different() -> None:
    codes, manifest = world()
    record = advise(codes, manifest, params(), heads())
    assert record["spec"] == "conv4_3-avg" and record["likeness"] == "different" and record["size"] == "small"
    assert record["transfer"] == "head" and record["worth"]
    assert record["top"]["spec"] == "pool5-avg" and record["top"]["lag"] > record["top"]["allowed"]
    accuracies = {row["spec"]: row["accuracy"] for row in record["layers"]}
    assert accuracies["conv4_3-avg"] > accuracies["conv5_2-avg"] > accuracies["pool5-avg"]
    assert record["images"] == record["scored"] == int((manifest.splits[0] != "test").sum())


@pytest.mark.parametrize(("small", "size"), [(250, "small"), (2, "large")])
@pytest.mark.parametrize(("turned", "likeness"), [(False, "different"), (True, "alike")])
def test_every_case_of_the_rule(small: int, size: str, turned: bool, likeness: str) -> None:
    apart = dict(zip(APART, reversed(APART.values()), strict=True)) if turned else APART
    codes, manifest = world(apart=apart)
    record = advise(codes, manifest, params(small_images=small), heads())
    assert (record["size"], record["likeness"]) == (size, likeness)
    case = next(case for key, case in RULE.items() if key == (size, likeness))
    assert record["transfer"] == case.transfer
    assert record["spec"] in record["says"]["do"] + record["says"]["otherwise"]
    assert ("conv4_1" in record["says"]["do"]) == ((size, likeness) == ("large", "alike"))


def test_the_test_split_changes_no_byte(tmp_path: Path) -> None:
    codes, manifest = world()
    write(advise(codes, manifest, params(), heads()), tmp_path / "a")
    test = np.flatnonzero(manifest.splits[0] == "test")
    random = np.random.default_rng(0)
    labels = manifest.labels.copy()
    labels[test] = labels[random.permutation(test)]
    assert not np.array_equal(labels, manifest.labels)
    scrambled = {}
    for spec, one in codes.items():
        rows = rows_of(one).copy()
        rows[test] = 100 * random.random((len(test), one.dim))
        scrambled[spec] = Codes.from_arrays(one.ids, rows, spec=spec, settings=one.settings)
    other = dataclasses.replace(manifest, labels=labels)
    write(advise(scrambled, other, params(), heads()), tmp_path / "b")
    for name in ("metrics.json", "layers.csv", "curve.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # The same change to the images that it may see does change it.
    train = np.flatnonzero(manifest.splits[0] != "test")
    labels = manifest.labels.copy()
    labels[train] = labels[random.permutation(train)]
    changed = advise(codes, dataclasses.replace(manifest, labels=labels), params(), heads())
    assert changed["layers"] != json.loads((tmp_path / "a/metrics.json").read_text())["layers"]
    assert not changed["worth"]


def test_without_a_test_split_there_is_advice() -> None:
    codes, manifest = world(n=120)
    splits = np.where(manifest.splits == "test", "train", manifest.splits)
    assert advise(codes, dataclasses.replace(manifest, splits=splits), params(), heads())["images"] == 120


def test_groups_are_held_out_together() -> None:
    codes, manifest = world()
    groups = np.array([f"group {i // 6}" for i in range(len(manifest))])
    grouped = dataclasses.replace(manifest, groups=groups)
    seen = seen_of(grouped, codes, most=5000, folds=4, seed=0)
    at = np.searchsorted(manifest.ids, seen.ids)
    for group in np.unique(groups[at]):
        own = seen.folds[:, groups[at] == group]
        assert (own == own[:, :1]).all()
    assert len(seen.folds) > 1 and len({fold.tobytes() for fold in seen.folds}) == len(seen.folds)
    assert all(np.bincount(fold).min() > 0 for fold in seen.folds)


def test_a_class_of_one_image_always_trains_and_a_draw_keeps_every_class() -> None:
    codes, manifest = world()
    labels = manifest.labels.copy()
    labels[np.flatnonzero(manifest.splits[0] == "train")[0]] = "rare"
    rare = dataclasses.replace(manifest, labels=labels)
    seen = seen_of(rare, codes, most=5000, folds=4, seed=0)
    own = seen.y == np.flatnonzero(seen.per_class == 1)[0]
    assert own.sum() == 1 and (seen.folds[:, own] == -1).all()
    drawn = seen_of(rare, codes, most=30, folds=4, seed=0)
    assert len(drawn) == 30 and len(np.unique(drawn.y)) == 4 and drawn.images == seen.images
    record = advise(codes, rare, params(), heads(class_weight="balanced"))
    assert record["measure"] == "mean class recall" and record["majority"] == 0.25


def test_a_reference_gives_distances_and_decides_where_depth_cannot() -> None:
    codes, manifest = world()
    known = reference.make(codes, name="alike")
    record = advise(codes, manifest, params(), heads(), reference=known)
    assert record["likeness_by"] == "depth" and len(record["distances"]) == 3
    assert "left out" not in record["says"]["distance"]
    one = {"pool5-avg": codes["pool5-avg"]}
    assert advise(one, manifest, params(), heads(), reference=known)["likeness"] == "alike"
    rows = rows_of(codes["pool5-avg"]) * np.linspace(0.01, 5, 24, dtype=np.float32)
    far = Codes.from_arrays(codes["pool5-avg"].ids, rows, spec="pool5-avg", settings=codes["pool5-avg"].settings)
    record = advise({"pool5-avg": far}, manifest, params(), heads(), reference=known)
    assert (record["likeness"], record["likeness_by"]) == ("different", "reference")
    record = advise(one, manifest, params(), heads())
    assert (record["likeness_by"], "left out" in record["says"]["distance"]) == ("nothing", True)


def layer(spec: str, *accuracies: float) -> Scored:
    curve = tuple(Point(100 * 2**i, a, 0.01, 0.1) for i, a in enumerate(accuracies))
    return Scored(spec, 8, curve, 0.5, 1, 0.0, 0.0, np.ones(4), np.ones(4))


def test_curves_lead_on_to_the_full_number_of_images() -> None:
    # Gains of 8 and 4 points in all: each doubling brings half of the last one's.
    found = [layer("conv4_3-avg", 0.60, 0.62, 0.62), layer("pool5-avg", 0.50, 0.56, 0.60)]
    assert expected(found, 400) == {"conv4_3-avg": 0.62, "pool5-avg": 0.60}
    hopes = expected(found, 1600)
    assert hopes["conv4_3-avg"] == pytest.approx(0.62)
    assert hopes["pool5-avg"] == pytest.approx(0.60 + 0.04 * (1 / 2 + 1 / 4))


def test_of_level_codes_those_are_preferred_that_stand_highest_in_all_measures() -> None:
    def of(spec: str, right: Sequence[int], *measures: float) -> Scored:
        knn, logme, h_score = measures
        point = Point(8, float(np.mean(right)), 0.1, 0.1)
        return Scored(spec, 8, (point,), knn, 1, logme, h_score, np.array(right, dtype=float), np.ones(8))

    leader = of("conv4_3-avg", [1, 1, 1, 1, 1, 1, 1, 0], 0.5, 0.1, 1.0)
    near = of("conv5_3-avg", [1, 1, 1, 1, 1, 1, 0, 0], 0.6, 0.2, 1.1)
    far = of("pool5-avg", [0, 0, 0, 0, 0, 1, 0, 0], 0.9, 0.9, 9.0)
    found = [far, near, leader]
    hopes = {one.spec: one.accuracy for one in found}
    assert rule.leader_of(found, hopes) is leader
    # One answer of eight apart is within two standard errors, six of eight are not, whatever the others say.
    assert rule.level_with(leader, found, hopes) == (near, leader)
    assert rule.preferred([near, leader], hopes) is near
    assert rule.preferred([dataclasses.replace(near, h_score=0.9), leader], hopes) is leader  # two votes each
    depth = rule.by_depth(found, hopes, arch="vgg16", points=0.02)
    assert (depth.leader, depth.best, depth.top) == (leader, near, far) and depth.alike is False
    assert depth.lag == pytest.approx(5 / 8) and depth.lag_se == far.behind(near)[1]


def test_what_cannot_be_advised_on() -> None:
    codes, manifest = world()
    plain = dataclasses.replace(manifest, labels=np.array([""] * len(manifest)))
    assert advise(codes, plain, params(), heads()) == {"skipped": "no labels"}
    alone = dataclasses.replace(manifest, labels=np.array(["one"] * len(manifest)))
    with pytest.raises(UserError, match="1 class"):
        advise(codes, alone, params(), heads())
    with pytest.raises(UserError, match="no codes"):
        advise({}, manifest, params(), heads())
    pairs = dataclasses.replace(manifest, labels=np.array([f"class {i}" for i in range(len(manifest))]))
    with pytest.raises(UserError, match="too few to advise on"):
        advise(codes, pairs, params(), heads())


@pytest.mark.parametrize(("arch", "first"), [("vgg16", "conv4_1"), ("vgg11", "conv4_1"), ("alexnet", "conv4")])
def test_the_top_half_begins_at_a_convolution(arch: str, first: str) -> None:
    assert top_half(arch) == first
