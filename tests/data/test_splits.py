"""Properties of splits, on sets with groups, copies and classes of any size."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import UserError
from pipeline.data.splits import assign, require_all, require_train, unite

SHARES = {"val": 0.2, "test": 0.25}


class Drawn(NamedTuple):
    ids: list[str]
    labels: list[str]
    groups: list[str]
    sha256: list[str]


@st.composite
def rows(draw: st.DrawFn) -> Drawn:
    n = draw(st.integers(1, 60))
    content = draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    seen: Counter[int] = Counter()
    ids = []
    for c in content:
        ids.append(f"{c:016x}-{seen[c]}")
        seen[c] += 1
    label = st.sampled_from(["a", "b", "c"])
    group = st.sampled_from(["", "", "", "g1", "g2", "g3"])
    return Drawn(
        ids,
        draw(st.lists(label, min_size=n, max_size=n)),
        draw(st.lists(group, min_size=n, max_size=n)),
        [f"{c:064x}" for c in content],
    )


def split(r: Drawn, *, seed: int = 0, repeats: int = 2, given: list[str] | None = None) -> np.ndarray:
    return assign(*r, given or [""] * len(r.ids), shares=SHARES, repeats=repeats, seed=seed)


@settings(max_examples=150, deadline=None)
@given(r=rows(), seed=st.integers(0, 5))
def test_groups_and_copies_are_never_parted(r: Drawn, seed: int) -> None:
    for repeat in split(r, seed=seed):
        assert set(repeat) <= {"train", "val", "test"}
        for column in (r.groups, r.sha256):
            sides = defaultdict(set)
            for value, side in zip(column, repeat, strict=True):
                if value:
                    sides[value].add(side)
            assert all(len(s) == 1 for s in sides.values())


@settings(max_examples=100, deadline=None)
@given(r=rows(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(r: Drawn, order: st.DataObject) -> None:
    at = list(range(len(r.ids)))
    order.shuffle(at)  # type: ignore[attr-defined]
    shuffled = Drawn(*([column[i] for i in at] for column in r))
    np.testing.assert_array_equal(split(shuffled), split(r)[:, at])


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(3, 40), min_size=1, max_size=4), seed=st.integers(0, 3))
def test_single_rows_give_each_class_its_exact_share(sizes: list[int], seed: int) -> None:
    labels = [f"c{c}" for c, size in enumerate(sizes) for _ in range(size)]
    n = len(labels)
    r = Drawn([f"{i:016x}-0" for i in range(n)], labels, [""] * n, [f"{i:064x}" for i in range(n)])
    for repeat in split(r, seed=seed):
        for c, size in enumerate(sizes):
            counts = Counter(side for side, label in zip(repeat, labels, strict=True) if label == f"c{c}")
            assert counts["val"] == min(max(1, int(0.2 * size + 0.5)), size - 2)
            assert counts["test"] == min(max(1, int(0.25 * size + 0.5)), size - 1 - counts["val"])
            assert counts["train"] >= 1


def test_repeats_and_seeds_differ() -> None:
    n = 40
    r = Drawn([f"{i:016x}-0" for i in range(n)], ["a"] * n, [""] * n, [f"{i:064x}" for i in range(n)])
    first = split(r, repeats=3)
    assert len({tuple(repeat) for repeat in first}) == 3
    np.testing.assert_array_equal(first, split(r, repeats=3))
    assert np.any(first != split(r, repeats=3, seed=1))
    # every image is in test now and then
    often = split(r, repeats=60)
    assert np.all(np.any(often == "test", axis=0))


def test_new_images_leave_most_of_the_others_where_they_were() -> None:
    def of(n: int) -> Drawn:
        return Drawn([f"{i * 7919:016x}-0" for i in range(n)], ["a"] * n, [""] * n, [f"{i:064x}" for i in range(n)])

    before, after = split(of(1000), repeats=1)[0], split(of(1010), repeats=1)[0][:1000]
    assert np.mean(before != after) < 0.03


@settings(max_examples=60, deadline=None)
@given(
    r=rows(),
    seed=st.integers(0, 3),
    names=st.sampled_from([("train", "test"), ("train", "val"), ("train", "val", "test")]),
)
def test_given_splits_are_kept_and_missing_ones_cut_from_train(r: Drawn, seed: int, names: tuple[str, ...]) -> None:
    given = [names[i % len(names)] for i in range(len(r.ids))]
    for repeat in split(r, seed=seed, given=given):
        for was, now in zip(given, repeat, strict=True):
            assert now == was or (was == "train" and now not in names)
        train = [i for i, was in enumerate(given) if was == "train"]
        units = unite([r.groups[i] for i in train], [r.sha256[i] for i in train])
        enough = len(set(units)) > 9  # three classes, each at least three units by the pigeonhole
        if names == ("train", "test") and enough:
            assert "val" in repeat


def test_a_large_group_goes_to_train() -> None:
    n = 20
    groups = ["big"] * 12 + [""] * 8
    r = Drawn([f"{i:016x}-0" for i in range(n)], ["a"] * n, groups, [f"{i:064x}" for i in range(n)])
    for repeat in split(r, repeats=10):
        assert set(repeat[:12]) == {"train"}
        assert Counter(repeat)["val"] == 4 and Counter(repeat)["test"] == 4  # of the 8 single rows; 5 are wanted


def test_unite_joins_chains() -> None:
    units = unite(["g", "", "g", "", ""], ["1", "2", "3", "3", "2"])
    assert units[0] == units[2] == units[3] and units[1] == units[4] and units[0] != units[1]


def test_shares_that_leave_no_train_are_refused() -> None:
    with pytest.raises(UserError, match="less than 1"):
        assign(["a"], [""], [""], ["s"], [""], shares={"val": 0.5, "test": 0.5}, repeats=1, seed=0)


def test_given_splits_without_train_are_refused() -> None:
    with pytest.raises(UserError, match="no train"):
        require_train(["test"])
    require_train(["test", "train"])
    require_train(["", ""])


def test_too_few_names_the_class_and_its_counts() -> None:
    labels = np.array(["a"] * 9 + ["b"] * 3)
    splits = np.array([["train"] * 3 + ["val"] * 3 + ["test"] * 3 + ["train", "val", "val"]])
    with pytest.raises(UserError, match=r"b \(3 images, 2 kept apart\)") as e:
        require_all(splits, labels, [*range(9), 9, 10, 10], ["train", "val", "test"])
    assert "a (9" not in str(e.value)
    require_all(splits, labels, list(range(12)), ["train", "val"])
